"""What the makers' datasheets promise of a device: the yardstick of modelled times and of achieved bandwidth."""

from dataclasses import dataclass

TERA = 1e12


@dataclass(frozen=True)
class Device:
    """A GPU by its datasheet.

    Attributes:
        name: as it stands in tables, and within what ``torch.cuda.get_device_name`` gives.
        memory_bandwidth: B/s of device memory.
        half_flops: FLOP/s of dense matrix products of bf16 or fp16 with float32 accumulation.
        float_flops: FLOP/s of float32 without tensor cores, whose TF32 is not float32.
    """

    name: str
    memory_bandwidth: float
    half_flops: float
    float_flops: float

    def seconds(self, flops: float, device_bytes: float, dtype: str) -> float:
        """A lower bound: matrix products and device memory at their peaks, perfectly overlapped, and nothing else.

        Args:
            flops: FLOPs of matrix products.
            device_bytes: bytes from and to device memory.
            dtype: bf16, fp16 or fp32, of the products' operands.
        """
        peak = self.float_flops if dtype == "fp32" else self.half_flops
        return max(flops / peak, device_bytes / self.memory_bandwidth)


A100 = Device("A100", 2.039 * TERA, 312 * TERA, 19.5 * TERA)
"""SXM, 80 GB."""

H100 = Device("H100", 3.35 * TERA, 989 * TERA, 67 * TERA)
"""SXM, 80 GB."""

H200 = Device("H200", 4.8 * TERA, 989 * TERA, 67 * TERA)

B200 = Device("B200", 8 * TERA, 2250 * TERA, 80 * TERA)
"""In an HGX board, 1000 W."""

MODELLED = (A100, H100, B200)
KNOWN = (A100, H100, H200, B200)


def device_named(name: str) -> Device | None:
    """The datasheet of what ``torch.cuda.get_device_name`` calls ``name``, where it is one of ``KNOWN``."""
    return next((device for device in KNOWN if device.name in name), None)
