"""The rewrites that a target gets, by name; importing it loads no library."""

_FIRST = (
    "fold_constants",
    "silu",
    "gelu",
    "resize_nearest",
    "edge_padding",
    "finite_masks",
    "pixel_shuffle",
    "group_norm",
)
_LAST = ("four_d", "fold_constants", "conv_bias", "geglu", "rescale")
# Target -> its rewrites, in order.
FOR: dict[str, tuple[str, ...]] = {
    "qnn": (*_FIRST, "attention_heads", *_LAST),
    # Its list has no division, no selection and no product of two computed tensors, and its
    # DEPTH_TO_SPACE is TFLite's.
    "mediatek": (
        *_FIRST,
        "shuffle_order",
        "selection",
        "division",
        "attention_convolutions",
        *_LAST,
    ),
    # These two have no InstanceNorm. Their LayerNorm is decomposed anyway: here with no transpose.
    "coreml": (*_FIRST, "instance_statistics", "layer_statistics", "attention_heads", *_LAST),
    "litert": (*_FIRST, "instance_statistics", "layer_statistics", "attention_heads", *_LAST),
}
