plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

// The graphs are those of the exported folder that this project lies in.
val models by tasks.registering(Copy::class) {
    from("../../..") { include(@MODELS@) }
    into(layout.buildDirectory.dir("models/model"))
}

android {
    namespace = "sr.kit"
    compileSdk = @COMPILE_SDK@
    defaultConfig {
        applicationId = "sr.kit"
        minSdk = @MIN_SDK@
        targetSdk = @COMPILE_SDK@
        versionCode = 1
        versionName = "1"
        ndk { abiFilters += "arm64-v8a" }
    }
    externalNativeBuild { cmake { path = file("src/main/cpp/CMakeLists.txt") } }
    // Runtimes look for their libraries in a folder, not in the archive.
    packaging { jniLibs { useLegacyPackaging = true } }
    androidResources { noCompress += listOf("onnx", "bin", "data", "tflite") }
    sourceSets["main"].assets.srcDir(layout.buildDirectory.dir("models"))
}

kotlin { jvmToolchain(17) }

tasks.named("preBuild") { dependsOn(models) }

dependencies {
@DEPENDENCIES@
}
