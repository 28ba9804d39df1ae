"""Errors of libraries as one line that says what a person can change."""

# what jsonargparse puts around the reason: all types that it tried, and the whole value
_CHAFF = (
    "Does not validate against any of the Union",
    "Subtypes: ",
    "Errors:",
    "- Expected a <class 'NoneType'>",
    "- Not a valid subclass of",
    "Subclass types expect one of",
    "- a class path (str)",
    "- a dict with",
    "Given value",
)


# what gloo and NCCL say where the other side is gone
_LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "remote process exited", "Broken pipe")


def one_line(error: BaseException | str) -> str:
    """The message without line breaks and without what jsonargparse puts around the reason.

    Of the system's errors about a file, its name and what is wrong with it.
    Of an error that crossed from a worker process, with its whole traceback as text, the last line.
    """
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        missing = isinstance(error, FileNotFoundError)
        return f"no such file: {error.filename}" if missing else f"{error.filename}: {error.strerror}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "Caught " in lines[0]:
        return lines[-1].split("Error: ", 1)[-1]
    reasons = [line.removeprefix("- ") for line in lines if not line.startswith(_CHAFF)]
    return " ".join(reasons or lines)


def lost_process(error: RuntimeError) -> str | None:
    """What to do where torch says that a process of its DataLoader, or of this training, has died; None for another."""
    if any(sign in str(error) for sign in _LOST_PEER):
        return (
            "another process of this training has died, and with it the run: its own last lines, or the "
            "launcher's, say which one and why; --ckpt_path last goes on"
        )
    if "DataLoader worker" not in str(error):
        return None
    said = one_line(error)
    if "Bus error" in said:
        advice = "the shared memory is full: raise its limit (/dev/shm) or use fewer num_workers"
    else:
        advice = "most often the memory was full: use fewer num_workers, or give the job more memory"
    return f"a data loading process died, and with it the run ({said}): {advice}; --ckpt_path last goes on"
