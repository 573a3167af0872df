"""Peak rates of GPUs from their data sheets, for cost estimates, modelled times and achieved bandwidth."""

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
    """

    name: str
    memory_bandwidth: float
    half_flops: float
    float_flops: float
    memory: float

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

A100 = GPU("A100", 2.039 * TERA, 312 * TERA, 19.5 * TERA, 80 * GIGA)
"""SXM, 80 GB."""

H100 = GPU("H100", 3.35 * TERA, 989 * TERA, 67 * TERA, 80 * GIGA)
"""SXM, 80 GB."""

H200 = GPU("H200", 4.8 * TERA, 989 * TERA, 67 * TERA, 141 * GIGA)

B200 = GPU("B200", 8 * TERA, 2250 * TERA, 80 * TERA, 180 * GIGA)
"""In an HGX board, 1000 W."""

MODELLED = (A100, H100, B200)
KNOWN = (V100, A100, H100, H200, B200)


def gpu_named(name: str) -> GPU | None:
    """Return the data sheet of the GPU that ``torch.cuda.get_device_name`` calls ``name``, if it is in ``KNOWN``."""
    return next((gpu for gpu in KNOWN if gpu.name in name), None)
