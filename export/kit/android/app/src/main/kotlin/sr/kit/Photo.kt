package sr.kit

import android.content.ContentResolver
import android.graphics.Bitmap
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.ImageDecoder
import android.net.Uri
import java.nio.ByteBuffer
import kotlin.math.max
import kotlin.math.sqrt

/** Pixels of a photograph in memory that C++ reads: red, green, blue, alpha. */
class Photo(val height: Int, val width: Int, val stride: Int, val pixels: ByteBuffer)

/** A photograph, upright, in sRGB, shrunk to `most` pixels; what is transparent becomes white. */
fun openPhoto(resolver: ContentResolver, uri: Uri, most: Int): Photo {
    val source = ImageDecoder.createSource(resolver, uri)
    val decoded = ImageDecoder.decodeBitmap(source) { decoder, info, _ ->
        decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
        val count = info.size.width.toDouble() * info.size.height
        if (count > most) {
            val ratio = sqrt(most / count)
            val height = max(2, (info.size.height * ratio).toInt())
            decoder.setTargetSize(max(2, (info.size.width * ratio).toInt()), height)
        }
    }
    val opaque = Bitmap.createBitmap(decoded.width, decoded.height, Bitmap.Config.ARGB_8888)
    val canvas = Canvas(opaque)
    canvas.drawColor(Color.WHITE)
    canvas.drawBitmap(decoded, 0f, 0f, null)
    val pixels = ByteBuffer.allocateDirect(opaque.rowBytes * opaque.height)
    opaque.copyPixelsToBuffer(pixels)
    return Photo(opaque.height, opaque.width, opaque.rowBytes, pixels)
}

/** A bitmap of pixels that follow one another row by row. */
fun bitmapOf(pixels: ByteBuffer, height: Int, width: Int): Bitmap {
    val bitmap = Bitmap.createBitmap(width, height, Bitmap.Config.ARGB_8888)
    bitmap.copyPixelsFromBuffer(pixels.duplicate().apply { rewind() })
    return bitmap
}
