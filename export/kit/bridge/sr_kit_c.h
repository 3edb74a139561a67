/* sr_kit.hpp for languages that call C: Swift, and others. Pixels are red, green, blue, alpha. */
#ifndef SR_KIT_C_H
#define SR_KIT_C_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A tensor that a graph reads; one of `floats` and `integers` is null. */
typedef struct {
  const char *name;
  const int64_t *shape;
  int rank;
  const float *floats;
  const int64_t *integers;
} sr_kit_input;

/* A tensor that a graph makes: `count` floats to fill. */
typedef struct {
  const char *name;
  const int64_t *shape;
  int rank;
  float *floats;
  size_t count;
} sr_kit_output;

/* Runs a graph by its name; 0 when it has. */
typedef int (*sr_kit_run)(void *context, const char *graph, const sr_kit_input *inputs,
                          int input_count, const sr_kit_output *outputs, int output_count);

/* Told how many tiles are done, of how many; 0 ends the picture. */
typedef int (*sr_kit_watch)(void *context, int done, int all);

typedef enum { SR_KIT_DONE = 0, SR_KIT_CANCELLED = 1, SR_KIT_FAILED = 2 } sr_kit_end;

/* How many times larger a result is. */
int sr_kit_scale(void);

/* The graphs that run, by their number from 0. */
int sr_kit_graph_count(void);
const char *sr_kit_graph_name(int number);
const char *sr_kit_graph_file(int number); /* below the exported folder */

/* Upscale pixels to the model's whole result.
 *
 *   stride   bytes from one row of `pixels` to the next
 *   result   gets (scale * height) * (scale * width) pixels, row after row
 *   message  gets why there is no result, of at most `room` bytes with the last, which is 0
 */
sr_kit_end sr_kit_upscale(const uint8_t *pixels, int height, int width, size_t stride,
                          sr_kit_run run, sr_kit_watch watch, void *context, uint8_t *result,
                          char *message, size_t room);

/* Between the plain enlargement of `pixels`, at strength 0, and `result`, at 1; no graph runs. */
sr_kit_end sr_kit_blend(const uint8_t *pixels, int height, int width, size_t stride,
                        const uint8_t *result, double strength, uint8_t *mixed, char *message,
                        size_t room);

#ifdef __cplusplus
}
#endif

#endif
