"""All targets, and what is refused before a model is loaded."""

import importlib
import importlib.util
from typing import TYPE_CHECKING

from compress.core.errors import UserError, nearest
from compress.core.plugins import Extended, instance_problem
from compress.recipe.export_options import GPU, MIXED_PALETTES, VULKAN, ExportOptions
from export.kit import write as kit
from export.targets.chips import choose_chip
from export.targets.litert_npu import check_npu, read_npu
from export.targets.phones import choice_for, choose_phone
from export.targets.target import Target
from export.targets.web_engine import find_engine

if TYPE_CHECKING:
    from export.targets.contract import Writer

# Thresholds in dB, end to end: fp16 rounds at 2^-11; 30 and 45 are what 8 and 16 bits are expected
# to reach.
TARGETS: dict[str, Target] = {
    "onnx": Target(
        "onnx",
        ("onnxscript",),
        "pip install 'onnxscript>=0.7.2,<0.8'",
        {"fp32": 80.0, "fp16": 45.0, "w8": 40.0, "w8a8": 30.0, "w8a16": 45.0},
        "fp32",
        takes_quantised=True,
        whole=True,
        dynamic=True,
    ),
    "web": Target(
        "web",
        ("onnxscript",),
        "pip install 'onnxscript>=0.7.2,<0.8'",
        {"fp32": 80.0, "w8": 40.0, "w8a8": 30.0, "w8a16": 45.0},
        "fp32",
        takes_quantised=True,
        remark="the dtype is that of the files for WASM; those for WebGPU are fp16 and w8",
    ),
    "qnn": Target(
        "qnn",
        (),
        "pip install onnxruntime-qnn==2.7.0",
        {"fp16": 45.0, "w8a8": 30.0, "w8a16": 45.0},
        "w8a16",
        takes_quantised=True,
        remark="compiled and simulated where onnxruntime-qnn is installed",
    ),
    "tensorrt": Target(
        "tensorrt",
        (),
        "pip install tensorrt cuda-python",
        {"fp32": 60.0, "fp16": 45.0, "fp8": 25.0, "w8a8": 30.0},
        "fp16",
        runs=False,
        remark="written only: an engine is built on the machine with the GPU",
    ),
    "openvino": Target(
        "openvino",
        ("openvino",),
        "pip install 'openvino>=2026.4,<2027'",
        {"fp32": 60.0, "fp16": 45.0, "w8a8": 30.0, "w8a16": 45.0},
        "fp32",
        takes_quantised=True,
    ),
    "executorch": Target(
        "executorch",
        ("executorch",),
        "pip install 'executorch>=1.5,<1.6'",
        {"fp32": 60.0, "fp16": 40.0, "w8a8": 30.0},
        "fp32",
    ),
    "litert": Target(
        "litert",
        ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"),
        "pip install litert-torch==0.10.0 ai-edge-litert==2.3.0 ai-edge-quantizer==0.10.0 (in an "
        "environment of its own: it wants other versions of pydantic and typing-extensions)",
        {"fp32": 60.0, "fp16": 45.0, "w8a8": 30.0, "w8a16": 45.0},
        "fp32",
    ),
    "coreml": Target(
        "coreml",
        ("coremltools",),
        "pip install 'coremltools>=9,<10'",
        {
            "fp32": 60.0,
            "fp16": 45.0,
            "w8": 30.0,
            "lut8": 40.0,
            "lut6": 35.0,
            "lut4": 25.0,
            "lut": 25.0,
        },
        "fp16",
        runs=False,
        remark="converted only: Core ML predicts on macOS",
    ),
    "ncnn": Target(
        "ncnn",
        ("ncnn", "pnnx"),
        "pip install ncnn pnnx",
        {"fp32": 60.0, "fp16": 40.0, "w8a8": 30.0},
        "fp32",
    ),
}
# Ours, and those of other packages.
ALL_TARGETS: Extended[Target] = Extended("targets", TARGETS, instance_problem(Target))
# What people ask for -> why there is no such target, and what to take.
NOT_OFFERED = {
    "nnapi": "Android has deprecated it since 15, and drivers run more and more of it on the CPU; "
    "choose litert, or qnn for a Snapdragon"
}
# (target, dtype) -> why there is none.
REASONS = {
    ("web", "fp16"): "a CPU in a browser has no float16; the files for WebGPU are fp16 and w8",
    ("executorch", "w8a16"): "XNNPACK has no kernels with 16-bit activations",
    ("tensorrt", "w8a16"): "TensorRT has no 16-bit integers",
    ("coreml", "w8a8"): "its activation ranges are calibrated on macOS only",
    ("coreml", "w8a16"): "Core ML has no 16-bit activation codes",
    ("ncnn", "w8a16"): "ncnn has no 16-bit codes",
    ("qnn", "fp32"): "the HTP computes in float16 or integers",
}


def choose_target(name: str) -> Target:
    """The target of that name.

    Raises:
        UserError: There is none.
    """
    if name in NOT_OFFERED:
        raise UserError(f"target '{name}' is not offered: {NOT_OFFERED[name]}")
    if name not in ALL_TARGETS:
        raise UserError(
            f"export target '{name}' is unknown{nearest(name, ALL_TARGETS)}; choose one of "
            f"{', '.join(ALL_TARGETS)}"
        )
    return ALL_TARGETS[name]


def find_writer(target: Target) -> "Writer":
    """The function that makes a target's files; its packages are imported where it needs them."""
    own = f"export.targets.to_{target.module}"
    return importlib.import_module(target.module if "." in target.module else own).write


def check_dtype(name: str, dtype: str | None) -> None:
    """Raise UserError for an unknown target, and for a dtype that it has not."""
    target = choose_target(name)
    if dtype is None or dtype in target.dtypes:
        return
    reason = REASONS.get((name, dtype))
    told = f" ({reason})" if reason else ""
    raise UserError(f"target {name} has no {dtype}{told}; choose one of {', '.join(target.dtypes)}")


def check_options(options: ExportOptions) -> None:
    """Raise UserError for what a target cannot do, before a model is loaded."""
    name = options.target
    check_dtype(name, options.dtype)
    if options.dynamic and not choose_target(name).dynamic:
        able = ", ".join(other for other, target in TARGETS.items() if target.dynamic)
        raise UserError(
            f"target {name} has static shapes only; leave out dynamic, or choose {able}"
        )
    if name != "onnx" and (options.opset is not None or options.low_bits != "packed"):
        raise UserError(f"opset and low_bits are options of target onnx; leave them out for {name}")
    if name != "web" and options.engine_dir is not None:
        raise UserError(f"engine_dir is an option of target web; leave it out for {name}")
    if options.phone is not None:
        check_phone(options)
    if options.kit:
        check_kit_options(options)
    if options.chip is not None:
        if name != "qnn":
            raise UserError(f"chip is an option of target qnn; leave it out for {name}")
        choose_chip(options.chip)
    check_backend(options)
    check_palettes(options)
    if options.rewrite is not None:
        from export.rewrites.apply import names_for  # brings torch, as --help does not

        names_for(options.rewrite)
    if options.probes is not None:
        from export.parity.probes import check_probes  # brings torch, as --help does not

        check_probes(options.probes)


def check_backend(options: ExportOptions) -> None:
    """Raise UserError for a delegate or an NPU that the target or the dtype has not."""
    name = options.target
    if options.delegate == VULKAN and (name != "executorch" or options.dtype == "w8a8"):
        what = name if options.dtype is None else f"{name} {options.dtype}"
        raise UserError(
            f"delegate vulkan is of target executorch in fp32 or fp16; leave it out for {what}"
        )
    if options.delegate == GPU and (name != "litert" or options.npu is not None):
        raise UserError(f"delegate gpu is of target litert without npu; leave it out for {name}")
    if options.npu is None:
        return
    if name != "litert":
        raise UserError(f"npu is an option of target litert; leave it out for {name}")
    read_npu(options.npu)


def check_palettes(options: ExportOptions) -> None:
    """Raise UserError for palettes of mixed bits without a budget, and for a budget of no such."""
    is_mixed = options.target == "coreml" and options.dtype == MIXED_PALETTES
    if not is_mixed:
        for key in ("budget", "sensitivity"):
            if getattr(options, key) is not None:
                raise UserError(
                    f"{key} is an option of target coreml with dtype {MIXED_PALETTES}; leave it out"
                )
        return
    if options.budget is None:
        raise UserError(
            f"dtype {MIXED_PALETTES} gives each layer as many bits as a budget allows; give one, "
            "such as --budget 2.1MB, or choose lut4, lut6 or lut8"
        )
    from export.targets.palette_bits import check_request  # brings torch, as --help does not

    check_request(options)


def check_kit_options(options: ExportOptions) -> None:
    """Raise UserError for a target or shapes that have no kit for apps."""
    if options.target not in kit.TARGETS:
        raise UserError(f"kit is an option of targets {', '.join(kit.TARGETS)}; leave it out")
    if options.dynamic:
        raise UserError("a kit has tiles of one size; leave out dynamic, or kit")


def check_phone(options: ExportOptions) -> None:
    """Raise UserError for an unknown phone, and for a target or a chip that is not for it."""
    phone = choose_phone(str(options.phone))
    choice = choice_for(phone)
    chip = choose_chip(options.chip).name if options.target == "qnn" else None
    if (options.target, chip) != (choice.target, choice.chip):
        wanted = f"{choice.target}, chip {choice.chip}" if choice.chip else choice.target
        raise UserError(f"phone {phone.name} takes target {wanted}; take that, or leave out phone")


def check_packages(options: ExportOptions) -> None:
    """Raise UserError, with the command to install it, for a package that a target lacks."""
    name = options.target
    target = choose_target(name)
    for package in target.packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"target {name} needs the package {package}; run: {target.install}")
    if options.npu is not None:
        check_npu(options.npu)
    if name == "web":
        find_engine(options.engine_dir)
