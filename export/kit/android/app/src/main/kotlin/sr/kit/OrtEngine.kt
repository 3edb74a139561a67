package sr.kit

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer

private const val PROVIDER = "QNNExecutionProvider"
private const val LIBRARY = "libonnxruntime_providers_qnn.so"
private var isRegistered = false

/** onnxruntime: its QNN execution provider for the NPU, or its own kernels on the CPU. */
class OrtEngine private constructor(
    override val processor: Processor,
    private val environment: OrtEnvironment,
    private val sessions: Map<String, OrtSession>,
    private val stored: Map<String, FloatBuffer>,
) : Engine {
    override fun run(graph: String, inputs: Array<ByteBuffer>, outputs: Array<ByteBuffer>) {
        val spec = GRAPHS.getValue(graph)
        if (spec.isStored) {
            val values = stored.getValue(graph).duplicate()
            for (buffer in outputs) {
                val target = buffer.native().asFloatBuffer()
                while (target.hasRemaining()) target.put(values.get())
            }
            return
        }
        val tensors = LinkedHashMap<String, OnnxTensor>()
        try {
            for ((port, buffer) in spec.inputs.zip(inputs)) tensors[port.name] = tensor(port, buffer)
            val wanted = spec.outputs.map { it.name }.toSet()
            sessions.getValue(graph).run(tensors, wanted).use { results ->
                for ((port, buffer) in spec.outputs.zip(outputs)) {
                    val made = results.get(port.name).get() as OnnxTensor
                    buffer.native().asFloatBuffer().put(made.floatBuffer)
                }
            }
        } finally {
            tensors.values.forEach { it.close() }
        }
    }

    private fun tensor(port: PortSpec, buffer: ByteBuffer): OnnxTensor {
        val values = buffer.native()
        return if (port.isInteger) {
            OnnxTensor.createTensor(environment, values.asLongBuffer(), port.shape)
        } else {
            OnnxTensor.createTensor(environment, values.asFloatBuffer(), port.shape)
        }
    }

    override fun close() = sessions.values.forEach { it.close() }

    companion object {
        /**
         * Load all graphs.
         *
         * @param models the folder of their files
         * @param libraries the app's folder of native libraries; ADSP_LIBRARY_PATH has to name it
         *     before the first call
         * @throws EngineException the processor does not take the whole model
         */
        fun open(processor: Processor, models: File, libraries: File): Engine {
            val environment = OrtEnvironment.getEnvironment()
            val sessions = LinkedHashMap<String, OrtSession>()
            val stored = LinkedHashMap<String, FloatBuffer>()
            try {
                for (graph in ModelConstants.GRAPHS) {
                    if (graph.isStored) {
                        stored[graph.name] = floatsOf(File(models, graph.file))
                        continue
                    }
                    OrtSession.SessionOptions().use { options ->
                        if (processor == Processor.NPU) onNpu(environment, options, libraries)
                        val path = File(models, graph.file).path
                        sessions[graph.name] = environment.createSession(path, options)
                    }
                }
            } catch (error: OrtException) {
                sessions.values.forEach { it.close() }
                throw EngineException(error.message ?: "onnxruntime gave no reason", error)
            }
            return OrtEngine(processor, environment, sessions, stored)
        }

        private fun floatsOf(file: File): FloatBuffer =
            ByteBuffer.wrap(file.readBytes()).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()

        /** The HTP alone: a node that it does not take ends the session instead of the CPU's. */
        private fun onNpu(
            environment: OrtEnvironment,
            options: OrtSession.SessionOptions,
            libraries: File,
        ) {
            if (!isRegistered) {
                environment.registerExecutionProviderLibrary(PROVIDER, File(libraries, LIBRARY).path)
                isRegistered = true
            }
            val devices = environment.epDevices.filter { it.name == PROVIDER }
            if (devices.isEmpty()) throw EngineException("this phone has no Snapdragon with an HTP.")
            options.addConfigEntry("session.disable_cpu_ep_fallback", "1")
            options.addExecutionProvider(devices, ModelConstants.PROVIDER_OPTIONS)
        }
    }
}

/** How MainActivity loads the model. */
fun openEngine(processor: Processor, models: File, libraries: File): Engine =
    OrtEngine.open(processor, models, libraries)
