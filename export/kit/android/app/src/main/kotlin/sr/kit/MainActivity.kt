package sr.kit

import android.app.Activity
import android.content.Intent
import android.net.Uri
import android.os.Bundle
import android.system.Os
import android.view.Gravity
import android.view.View
import android.widget.Button
import android.widget.ImageView
import android.widget.LinearLayout
import android.widget.ProgressBar
import android.widget.SeekBar
import android.widget.TextView
import java.io.File
import java.nio.ByteBuffer
import java.util.concurrent.CancellationException
import java.util.concurrent.Executors

private const val CHOOSE = 1
private const val MOST_PIXELS = 1 shl 20 // of a photograph: 16 times as many floats come of it
private const val FULL = 100 // of the strength's slider

/** One screen: choose, upscale, dial the strength. It names the processor that computes. */
class MainActivity : Activity() {
    private val worker = Executors.newSingleThreadExecutor()
    private lateinit var picture: ImageView
    private lateinit var status: TextView
    private lateinit var progress: ProgressBar
    private lateinit var strength: SeekBar
    private lateinit var start: Button
    private lateinit var cancel: Button
    private lateinit var another: Button

    private var processor = ModelConstants.ENGINES.first()
    private var engine: Engine? = null
    private var photo: Photo? = null
    private var result: ByteBuffer? = null

    @Volatile
    private var isCancelled = false

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        // Qualcomm's runtime looks for the NPU's libraries here. It reads this once.
        Os.setenv("ADSP_LIBRARY_PATH", applicationInfo.nativeLibraryDir, true)
        setContentView(layout())
    }

    override fun onDestroy() {
        isCancelled = true
        worker.execute { engine?.close() }
        worker.shutdown()
        super.onDestroy()
    }

    private fun layout(): View {
        val column = LinearLayout(this).apply {
            orientation = LinearLayout.VERTICAL
            gravity = Gravity.CENTER_HORIZONTAL
            fitsSystemWindows = true
        }
        picture = ImageView(this).apply { adjustViewBounds = true }
        status = TextView(this).apply { accessibilityLiveRegion = View.ACCESSIBILITY_LIVE_REGION_POLITE }
        progress = ProgressBar(this, null, android.R.attr.progressBarStyleHorizontal)
        strength = SeekBar(this).apply { max = FULL; progress = FULL }
        strength.setOnSeekBarChangeListener(object : SeekBar.OnSeekBarChangeListener {
            override fun onProgressChanged(bar: SeekBar, value: Int, byUser: Boolean) = Unit
            override fun onStartTrackingTouch(bar: SeekBar) = Unit
            override fun onStopTrackingTouch(bar: SeekBar) = showResult()
        })
        start = button(R.string.start) { upscale() }
        cancel = button(R.string.cancel) { isCancelled = true }
        another = Button(this)
        val choose = button(R.string.choose) {
            val ask = Intent(Intent.ACTION_OPEN_DOCUMENT).setType("image/*")
            startActivityForResult(ask.addCategory(Intent.CATEGORY_OPENABLE), CHOOSE)
        }
        for (view in listOf(choose, start, cancel, another, progress, status, strength, picture)) {
            column.addView(view, LinearLayout.LayoutParams.MATCH_PARENT, LinearLayout.LayoutParams.WRAP_CONTENT)
        }
        show(start = false, working = false, done = false)
        return column
    }

    private fun button(text: Int, action: () -> Unit) = Button(this).apply {
        setText(text)
        setOnClickListener { action() }
    }

    private fun show(start: Boolean, working: Boolean, done: Boolean) {
        fun seen(isSeen: Boolean) = if (isSeen) View.VISIBLE else View.GONE
        this.start.visibility = seen(start)
        cancel.visibility = seen(working)
        progress.visibility = seen(working)
        strength.visibility = seen(done)
        another.visibility = View.GONE
    }

    @Deprecated("the platform's own, which needs no library")
    override fun onActivityResult(request: Int, code: Int, data: Intent?) {
        val uri = data?.data
        if (request == CHOOSE && code == RESULT_OK && uri != null) open(uri)
    }

    private fun open(uri: Uri) = background {
        val opened = openPhoto(contentResolver, uri, MOST_PIXELS)
        opened.pixels.rewind()
        runOnUiThread {
            photo = opened
            result = null
            picture.setImageURI(uri)
            status.text = ""
            show(start = true, working = false, done = false)
        }
    }

    private fun upscale() {
        val given = photo ?: return
        isCancelled = false
        show(start = false, working = true, done = false)
        background {
            val begin = System.nanoTime()
            val loaded = engine ?: load()
            val scale = Kit.scale()
            val made = ByteBuffer.allocateDirect(given.height * given.width * scale * scale * 4)
            Kit.upscale(given.pixels, given.height, given.width, given.stride, runner(loaded), made)
            val seconds = (System.nanoTime() - begin) / 1_000_000_000
            runOnUiThread {
                result = made
                val (height, width) = given.height * scale to given.width * scale
                val name = loaded.processor.label
                status.text = getString(R.string.done, width, height, name, seconds)
                show(start = true, working = false, done = true)
                showResult()
            }
        }
    }

    /** The model on the processor of this moment; which, is on the screen. */
    private fun load(): Engine {
        runOnUiThread { status.text = getString(R.string.opening, processor.label) }
        val installed = packageManager.getPackageInfo(packageName, 0).lastUpdateTime
        val folder = File(noBackupFilesDir, "model-$installed")
        noBackupFilesDir.listFiles()?.filter { it != folder }?.forEach { it.deleteRecursively() }
        val models = copiedModels(folder) { assets.open("model/$it") }
        val libraries = File(applicationInfo.nativeLibraryDir)
        return openEngine(processor, models, libraries).also { engine = it }
    }

    private fun runner(loaded: Engine) = object : Kit.Runner {
        override fun run(graph: String, inputs: Array<ByteBuffer>, outputs: Array<ByteBuffer>) =
            loaded.run(graph, inputs, outputs)

        override fun watch(done: Int, all: Int): Boolean {
            runOnUiThread {
                progress.max = all
                progress.progress = done
                status.text = getString(R.string.progress, done, all, loaded.processor.label)
            }
            return !isCancelled
        }
    }

    private fun showResult() {
        val given = photo ?: return
        val whole = result ?: return
        val share = strength.progress / FULL.toDouble()
        background {
            val (height, width) = given.height * Kit.scale() to given.width * Kit.scale()
            val mixed = ByteBuffer.allocateDirect(whole.capacity())
            Kit.blend(given.pixels, given.height, given.width, given.stride, whole, share, mixed)
            val bitmap = bitmapOf(mixed, height, width)
            runOnUiThread { picture.setImageBitmap(bitmap) }
        }
    }

    private fun background(work: () -> Unit) = worker.execute {
        try {
            work()
        } catch (_: CancellationException) {
            runOnUiThread { tell(getString(R.string.cancelled)) }
        } catch (error: EngineException) {
            runOnUiThread { refuse(error) }
        } catch (error: Exception) {
            runOnUiThread { tell(getString(R.string.failed, error.message ?: error.toString())) }
        } catch (error: OutOfMemoryError) {
            runOnUiThread { tell(getString(R.string.failed, error.message ?: "")) }
        }
    }

    private fun tell(text: String) {
        status.text = text
        show(start = photo != null, working = false, done = false)
    }

    /** Say why, and offer the next processor, which the user alone chooses. */
    private fun refuse(error: EngineException) {
        tell(getString(R.string.refused, processor.label, error.message))
        val next = nextAfter(processor) ?: return
        another.text = getString(R.string.another, next.label)
        another.visibility = View.VISIBLE
        another.setOnClickListener {
            processor = next
            upscale()
        }
    }
}
