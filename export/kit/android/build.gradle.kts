plugins {
    id("com.android.application") version "@ANDROID_PLUGIN@" apply false
    id("org.jetbrains.kotlin.android") version "@KOTLIN@" apply false
}
