package sr.kit;

import java.nio.ByteBuffer;

/**
 * The arithmetic around the networks, in C++: tiles, blending, colours, strength.
 *
 * <p>Pixels are red, green, blue, alpha, a byte each, in direct buffers. A failure is an
 * IllegalStateException with one sentence; a picture that was ended, a CancellationException.
 */
public final class Kit {
  static {
    System.loadLibrary("sr_kit");
  }

  private Kit() {}

  /** Runs the networks. */
  public interface Runner {
    /**
     * Run a graph.
     *
     * @param graph its name
     * @param inputs float32, or int64 where the graph says so, in the machine's byte order; they
     *     hold during this call alone
     * @param outputs float32, to be filled
     */
    void run(String graph, ByteBuffer[] inputs, ByteBuffer[] outputs);

    /** Told how many tiles are done, of how many; false ends the picture. */
    boolean watch(int done, int all);
  }

  /** How many times larger a result is. */
  public static native int scale();

  /**
   * Upscale pixels to the model's whole result.
   *
   * @param stride bytes from one row of `pixels` to the next
   * @param result gets (scale * height) * (scale * width) pixels
   */
  public static native void upscale(
      ByteBuffer pixels, int height, int width, int stride, Runner runner, ByteBuffer result);

  /** Between the plain enlargement of `pixels`, at strength 0, and `result`, at 1. */
  public static native void blend(
      ByteBuffer pixels,
      int height,
      int width,
      int stride,
      ByteBuffer result,
      double strength,
      ByteBuffer mixed);
}
