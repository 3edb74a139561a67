// sr_kit.hpp for sr/kit/Kit.java. Pixels are red, green, blue, alpha, in direct buffers.

#include <jni.h>

#include <exception>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "model.hpp"

namespace {

using sr_kit::Graph;
using sr_kit::Image;
using sr_kit::Inputs;
using sr_kit::Tensor;

// What Java code that was called threw is pending, and goes on to the caller.
struct Pending {};

void check(JNIEnv* env) {
  if (env->ExceptionCheck()) throw Pending();
}

void raise(JNIEnv* env, const char* kind, const char* message) {
  const jclass type = env->FindClass(kind);
  if (type != nullptr) env->ThrowNew(type, message);
}

template <typename Work>
void told(JNIEnv* env, Work work) {
  try {
    work();
  } catch (const Pending&) {
    return;
  } catch (const sr_kit::Cancelled& error) {
    raise(env, "java/util/concurrent/CancellationException", error.what());
  } catch (const std::bad_alloc&) {
    raise(env, "java/lang/OutOfMemoryError", "the memory does not do for a picture of this size");
  } catch (const std::exception& error) {
    raise(env, "java/lang/IllegalStateException", error.what());
  }
}

std::uint8_t* address(JNIEnv* env, jobject buffer, std::size_t least) {
  void* start = env->GetDirectBufferAddress(buffer);
  if (start == nullptr) throw sr_kit::Error("pixels are handed over in direct buffers");
  if (env->GetDirectBufferCapacity(buffer) < static_cast<jlong>(least)) {
    throw sr_kit::Error("a buffer is too small for the pixels");
  }
  return static_cast<std::uint8_t*>(start);
}

jobject buffer_of(JNIEnv* env, const Tensor& tensor) {
  const bool is_integer = !tensor.integers.empty();
  const void* start = is_integer ? static_cast<const void*>(tensor.integers.data())
                                 : static_cast<const void*>(tensor.floats.data());
  const std::size_t bytes = is_integer ? tensor.integers.size() * sizeof(std::int64_t)
                                       : tensor.floats.size() * sizeof(float);
  return env->NewDirectByteBuffer(const_cast<void*>(start), static_cast<jlong>(bytes));
}

// Calls Runner.run, whose buffers are the tensors' own memory and hold for that call alone.
class Runner {
 public:
  Runner(JNIEnv* env, jobject runner) : env_(env), runner_(runner) {
    const jclass type = env->GetObjectClass(runner);
    run_ = env->GetMethodID(
        type, "run", "(Ljava/lang/String;[Ljava/nio/ByteBuffer;[Ljava/nio/ByteBuffer;)V");
    check(env);
    watch_ = env->GetMethodID(type, "watch", "(II)Z");
    check(env);
    buffer_ = env->FindClass("java/nio/ByteBuffer");
    check(env);
  }

  void run(const Graph& graph, const Inputs& inputs, std::vector<Tensor>& outputs) const {
    const jint references = static_cast<jint>(inputs.size() + outputs.size()) + 3;
    if (env_->PushLocalFrame(references) != 0) throw Pending();
    const jobjectArray given = env_->NewObjectArray(static_cast<jsize>(inputs.size()), buffer_,
                                                    nullptr);
    const jobjectArray made = env_->NewObjectArray(static_cast<jsize>(outputs.size()), buffer_,
                                                   nullptr);
    check(env_);
    for (std::size_t i = 0; i < inputs.size(); i++) put(given, i, *inputs[i]);
    for (std::size_t i = 0; i < outputs.size(); i++) put(made, i, outputs[i]);
    env_->CallVoidMethod(runner_, run_, env_->NewStringUTF(graph.name.c_str()), given, made);
    check(env_);
    env_->PopLocalFrame(nullptr);
  }

  bool watch(int done, int all) const {
    const jboolean goes_on = env_->CallBooleanMethod(runner_, watch_, done, all);
    check(env_);
    return goes_on == JNI_TRUE;
  }

 private:
  void put(jobjectArray array, std::size_t i, const Tensor& tensor) const {
    env_->SetObjectArrayElement(array, static_cast<jsize>(i), buffer_of(env_, tensor));
    check(env_);
  }

  JNIEnv* env_;
  jobject runner_;
  jmethodID run_ = nullptr;
  jmethodID watch_ = nullptr;
  jclass buffer_ = nullptr;
};

std::size_t pixels_of(int height, int width) {
  return static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * 4;
}

Image input(JNIEnv* env, jobject pixels, jint height, jint width, jint stride) {
  const std::size_t least = static_cast<std::size_t>(height) * static_cast<std::size_t>(stride);
  return sr_kit::from_bytes(address(env, pixels, least), height, width, 4, stride);
}

}  // namespace

extern "C" {

JNIEXPORT jint JNICALL Java_sr_kit_Kit_scale(JNIEnv*, jclass) { return sr_kit::model().scale; }

JNIEXPORT void JNICALL Java_sr_kit_Kit_upscale(JNIEnv* env, jclass, jobject pixels, jint height,
                                               jint width, jint stride, jobject runner,
                                               jobject result) {
  told(env, [&] {
    const sr_kit::Model& model = sr_kit::model();
    const Image lr = input(env, pixels, height, width, stride);
    const Runner java(env, runner);
    std::uint8_t* out = address(env, result, pixels_of(height * model.scale, width * model.scale));
    const sr_kit::Run run = [&](const Graph& graph, const Inputs& inputs,
                                std::vector<Tensor>& outputs) { java.run(graph, inputs, outputs); };
    const sr_kit::Watch watch = [&](int done, int all) { return java.watch(done, all); };
    sr_kit::to_rgba(sr_kit::to_bytes(sr_kit::upscale(model, lr, run, watch)), out);
  });
}

JNIEXPORT void JNICALL Java_sr_kit_Kit_blend(JNIEnv* env, jclass, jobject pixels, jint height,
                                             jint width, jint stride, jobject result,
                                             jdouble strength, jobject mixed) {
  told(env, [&] {
    const int scale = sr_kit::model().scale;
    const std::size_t size = pixels_of(height * scale, width * scale);
    const Image lr = input(env, pixels, height, width, stride);
    sr_kit::Bytes bytes =
        sr_kit::from_rgba(address(env, result, size), height * scale, width * scale);
    bytes = sr_kit::blended(std::move(bytes), lr, strength, scale);
    sr_kit::to_rgba(bytes, address(env, mixed, size));
  });
}
}
