"""Peak rates of GPUs from their data sheets, for cost estimates, modelled times and achieved bandwidth."""

import re
from dataclasses import dataclass

TERA, GIGA = 1e12, 1e9

USABLE = 0.9
"""Share of a device's memory that counted tensors may take. The rest is for the context, fragments and libraries."""


@dataclass(frozen=True)
class GPU:
    """The data sheet of a GPU.

    Attributes:
        name: its name in tables, and part of what ``torch.cuda.get_device_name`` returns.
        memory_bandwidth: B/s of device memory.
        half_flops: FLOP/s of dense bf16 or fp16 matrix products with float32 accumulation.
        float_flops: FLOP/s of float32 outside the tensor cores, which compute TF32.
        memory: bytes of device memory.
        tf32_flops: FLOP/s of dense TF32 matrix products; 0: it has no TF32.
    """

    name: str
    memory_bandwidth: float
    half_flops: float
    float_flops: float
    memory: float
    tf32_flops: float = 0.0

    @property
    def key(self) -> str:
        """The name on the command line: ``device=h100``, ``device=rtx4090``."""
        return self.name.lower().replace(" ", "")

    def seconds(self, flops: float, device_bytes: float, dtype: str) -> float:
        """Return a lower bound: matrix products and device memory at their peaks, perfectly overlapped, nothing else.

        Args:
            flops: FLOPs of matrix products.
            device_bytes: bytes from and to device memory.
            dtype: of the operands: bf16, fp16 or fp32.
        """
        peak = self.float_flops if dtype == "fp32" else self.half_flops
        return max(flops / peak, device_bytes / self.memory_bandwidth)


V100 = GPU("V100", 0.9 * TERA, 125 * TERA, 15.7 * TERA, 32 * GIGA)
"""SXM2, 32 GB; ``half_flops`` is for fp16."""

A100 = GPU("A100", 2.039 * TERA, 312 * TERA, 19.5 * TERA, 80 * GIGA, 156 * TERA)
"""SXM, 80 GB."""

H100 = GPU("H100", 3.35 * TERA, 989 * TERA, 67 * TERA, 80 * GIGA, 494.5 * TERA)
"""SXM, 80 GB."""

H200 = GPU("H200", 4.8 * TERA, 989 * TERA, 67 * TERA, 141 * GIGA, 494.5 * TERA)

B200 = GPU("B200", 8 * TERA, 2250 * TERA, 80 * TERA, 180 * GIGA, 1125 * TERA)
"""In an HGX board, 1000 W."""

RTX_3090 = GPU("RTX 3090", 0.936 * TERA, 71 * TERA, 35.6 * TERA, 24 * GIGA, 35.6 * TERA)
"""NVIDIA's Ampere GA102 whitepaper. Graphics cards accumulate in float32 at half their rate in float16."""

RTX_4090 = GPU("RTX 4090", 1.008 * TERA, 165.2 * TERA, 82.6 * TERA, 24 * GIGA, 82.6 * TERA)
"""NVIDIA's Ada whitepaper."""

A10 = GPU("A10", 0.6 * TERA, 125 * TERA, 31.2 * TERA, 24 * GIGA, 62.5 * TERA)

L4 = GPU("L4", 0.3 * TERA, 121 * TERA, 30.3 * TERA, 24 * GIGA, 60 * TERA)

L40S = GPU("L40S", 0.864 * TERA, 362 * TERA, 91.6 * TERA, 48 * GIGA, 183 * TERA)

MODELLED = (A100, H100, B200)
KNOWN = (V100, A100, H100, H200, B200, RTX_3090, RTX_4090, A10, L4, L40S)


def gpu_named(name: str) -> GPU | None:
    """Return the data sheet of the GPU that ``torch.cuda.get_device_name`` calls ``name``, if it is in ``KNOWN``."""
    # Whole words, because A10 is not A100; a suffix such as in H100-SXM5 is none.
    return next((gpu for gpu in KNOWN if re.search(rf"\b{gpu.name}\b", name)), None)


def peak_flops(name: str, precision: str, matmul_precision: str) -> float | None:
    """Return the FLOP/s of matrix products on a GPU by its data sheet; None: it is not in ``KNOWN``, or no GPU.

    Args:
        name: what torch calls it.
        precision: of the training, in Lightning's terms, such as bf16-mixed.
        matmul_precision: of products of float32 matrices: highest, high or medium.
    """
    gpu = gpu_named(name)
    if gpu is None:
        return None
    if precision != "32-true":
        return gpu.half_flops
    return gpu.float_flops if matmul_precision == "highest" else gpu.tf32_flops or gpu.float_flops
