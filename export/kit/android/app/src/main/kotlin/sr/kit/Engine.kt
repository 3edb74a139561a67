package sr.kit

import java.io.File
import java.io.InputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** A tensor that goes into a graph or comes out of it: float32, or int64. */
class PortSpec(val name: String, val shape: LongArray, val isInteger: Boolean)

/**
 * A graph: its file below the folder of models, and its ends in their order.
 *
 * @property isStored no network: the file has the outputs, as little-endian float32
 */
class GraphSpec(
    val name: String,
    val file: String,
    val inputs: List<PortSpec>,
    val outputs: List<PortSpec>,
    val isStored: Boolean,
)

/** Processors of a phone, by the names in ModelConstants.ENGINES. */
enum class Processor(val label: String) {
    NPU("the NPU"),
    GPU("the GPU"),
    CPU("the CPU"),
}

/** Why a processor cannot have the model; the message is for the user. */
class EngineException(message: String, cause: Throwable? = null) : Exception(message, cause)

/** The networks, loaded on one processor. What that one cannot compute, no other does silently. */
interface Engine : AutoCloseable {
    val processor: Processor

    /** Run a graph: buffers in the machine's byte order, those of the outputs to be filled. */
    fun run(graph: String, inputs: Array<ByteBuffer>, outputs: Array<ByteBuffer>)
}

/** The graphs of the model by their names. */
val GRAPHS: Map<String, GraphSpec> = ModelConstants.GRAPHS.associateBy { it.name }

/** The processor that is offered after this one; null after the last. */
fun nextAfter(processor: Processor): Processor? {
    val order = ModelConstants.ENGINES
    return order.getOrNull(order.indexOf(processor) + 1)
}

/**
 * The folder of the models' files, which runtimes open by path: a copy that is made once.
 *
 * @param folder it belongs to one installation of the app
 * @param open opens a file of the app's archive by its name
 */
fun copiedModels(folder: File, open: (String) -> InputStream): File {
    for (name in ModelConstants.FILES) {
        val target = File(folder, name)
        if (target.exists()) continue
        target.parentFile?.mkdirs()
        val partial = File("${target.path}.partial")
        open(name).use { from -> partial.outputStream().use { from.copyTo(it) } }
        if (!partial.renameTo(target)) throw EngineException("$name could not be stored.")
    }
    return folder
}

/** The same memory in the machine's byte order. */
fun ByteBuffer.native(): ByteBuffer = duplicate().order(ByteOrder.nativeOrder())
