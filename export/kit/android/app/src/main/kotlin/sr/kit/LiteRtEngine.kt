package sr.kit

import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.LiteRtException
import com.google.ai.edge.litert.TensorBuffer
import java.io.File
import java.nio.ByteBuffer

private val ACCELERATORS = mapOf(
    Processor.NPU to Accelerator.NPU,
    Processor.GPU to Accelerator.GPU,
    Processor.CPU to Accelerator.CPU,
)

/** A compiled graph with its buffers, by LiteRT's names: args_0 …, output_0 …. */
private class Compiled(
    val model: CompiledModel,
    val inputs: Map<String, TensorBuffer>,
    val outputs: Map<String, TensorBuffer>,
)

/** LiteRT's CompiledModel on one accelerator. */
class LiteRtEngine private constructor(
    override val processor: Processor,
    private val compiled: Map<String, Compiled>,
) : Engine {
    override fun run(graph: String, inputs: Array<ByteBuffer>, outputs: Array<ByteBuffer>) {
        val spec = GRAPHS.getValue(graph)
        val loaded = compiled.getValue(graph)
        inputs.forEachIndexed { i, buffer ->
            write(loaded.inputs.getValue("args_$i"), spec.inputs[i], buffer)
        }
        loaded.model.run(loaded.inputs, loaded.outputs)
        outputs.forEachIndexed { i, buffer ->
            buffer.native().asFloatBuffer().put(loaded.outputs.getValue("output_$i").readFloat())
        }
    }

    private fun write(target: TensorBuffer, port: PortSpec, buffer: ByteBuffer) {
        val values = buffer.native()
        if (port.isInteger) {
            val longs = values.asLongBuffer()
            target.writeLong(LongArray(longs.remaining()).also { longs.get(it) })
        } else {
            val floats = values.asFloatBuffer()
            target.writeFloat(FloatArray(floats.remaining()).also { floats.get(it) })
        }
    }

    override fun close() = compiled.values.forEach {
        (it.inputs.values + it.outputs.values).forEach { buffer -> buffer.close() }
        it.model.close()
    }

    companion object {
        /**
         * Load all graphs.
         *
         * One accelerator is asked for. Without the CPU beside it LiteRT refuses a model that the
         * accelerator does not take whole ("Some ops are not accelerated").
         *
         * @param models the folder of their files
         * @throws EngineException the processor does not take the whole model
         */
        fun open(processor: Processor, models: File): Engine {
            val options = CompiledModel.Options(ACCELERATORS.getValue(processor))
            val compiled = LinkedHashMap<String, Compiled>()
            val engine = LiteRtEngine(processor, compiled)
            try {
                for (graph in ModelConstants.GRAPHS) {
                    val model = CompiledModel.create(File(models, graph.file).path, options, null)
                    val inputs = graph.inputs.indices.map { "args_$it" }
                    val outputs = graph.outputs.indices.map { "output_$it" }
                    compiled[graph.name] = Compiled(
                        model,
                        inputs.associateWith { model.createInputBuffer(it) },
                        outputs.associateWith { model.createOutputBuffer(it) },
                    )
                }
            } catch (error: LiteRtException) {
                engine.close()
                throw EngineException(error.message ?: "LiteRT gave no reason", error)
            }
            return engine
        }
    }
}

/** How MainActivity loads the model. */
fun openEngine(processor: Processor, models: File, libraries: File): Engine =
    LiteRtEngine.open(processor, models)
