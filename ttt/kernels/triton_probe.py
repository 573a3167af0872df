"""A kernel of one number, to see whether this Triton can run anything on a GPU."""

import torch
import triton
import triton.language as tl


@triton.jit
def write_one(number):  # type: ignore[no-untyped-def]
    """Write 1 to ``number``, a pointer to float32."""
    tl.store(number, 1.0)


def why_triton_fails(device: torch.device) -> str | None:
    """Return one line about why Triton cannot run a kernel on ``device``, or None if it can."""
    number = torch.zeros(1, device=device)
    try:
        write_one[(1,)](number)
        written = number.item()
    except Exception as error:  # a driver that cannot load the compiled code raises errors of several types
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        return (
            f"triton {triton.__version__} cannot run a kernel on it ({type(error).__name__}: {reason}); if its driver "
            "is older than this Triton, update the driver or install an older Triton"
        )
    return None if written == 1 else f"triton {triton.__version__} computes wrong numbers on it"
