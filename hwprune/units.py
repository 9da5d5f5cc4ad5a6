"""Quantities for people: bytes, milliseconds, counts and shares as short texts."""


def format_bytes(count: float) -> str:
    """``270592`` -> ``264.2 KiB``."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def format_ms(value_ms: float) -> str:
    """``0.2713`` -> ``271.3 us``, ``12.3456`` -> ``12.35 ms``."""
    return f"{value_ms * 1e3:.1f} us" if value_ms < 1 else f"{value_ms:.2f} ms"


def format_count(count: float) -> str:
    """``853018`` -> ``853.0 k``."""
    for unit in ("", " k", " M"):
        if abs(count) < 1000:
            return f"{count:.0f}" if not unit else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.2f} G"


def format_duration(seconds: float) -> str:
    """``3723`` -> ``1 h 02 min``, ``75`` -> ``1 min 15 s``."""
    seconds = round(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else f"{seconds} s"
