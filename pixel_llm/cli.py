"""The commands `lightning` and `pixel-llm`. Nothing heavy is imported before the verb is known.

`lightning fit|validate|test|predict` trains and evaluates from YAML. `pixel-llm` knows the same verbs and the
project's own. The package lightning installs no command of that name itself, but others may: verbs that are not
ours are handed on to whoever else offers a console script called `lightning`.
"""

import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points, version

_TRAINER_VERBS = ("fit", "validate", "test", "predict")
_OWN_VERBS = {
    "prepare": "raw annotations and images, or the toy world -> shards",
    "caption": "say what is in a photo, and where each word is",
    "refer": "find what a sentence means in a photo: its box and its mask",
    "describe": "say what is in boxes of a photo, where clicks are, or what masks mark",
    "dense": "find the objects of a photo and say what each is",
    "inspect": "what a checkpoint is of, and its parts",
    "export": "a checkpoint -> a folder with safetensors, configuration and tokenizer",
    "score": "figures of predictions in a file, from any system",
    "replay": "repeat the training step that a run stopped at, and say where it goes wrong",
    "plan": "memory, time and cost of a configuration's training on so many GPUs",
}


def lightning() -> int:
    """Entry point of the command `lightning`."""
    verb = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None)
    if verb in _TRAINER_VERBS:
        return _trainer()
    for entry in entry_points(group="console_scripts", name="lightning"):
        if not entry.value.startswith("pixel_llm"):
            return entry.load()() or 0
    return main()


def main() -> int:
    """Entry point of the command `pixel-llm` and of `python -m pixel_llm`."""
    arguments = sys.argv[1:]
    verb = arguments[0] if arguments else "--help"
    if verb in _TRAINER_VERBS:
        return _trainer()
    if verb == "prepare" and arguments[1:2] == ["features"]:  # the one that needs a model
        from pixel_llm.features_command import main as prepare_features

        return guarded(lambda: prepare_features(arguments[2:]))
    if verb == "prepare":
        from datamodules.prepare.command import main as prepare

        return prepare(arguments[1:])
    if verb in ("caption", "refer", "describe", "dense"):
        return guarded(lambda: _ask_about_photo(verb, arguments[1:]))
    if verb in ("inspect", "export"):
        from pixel_llm import checkpoint_commands

        return guarded(lambda: getattr(checkpoint_commands, verb)(arguments[1:]))
    if verb == "score":
        from pixel_llm.score import main as score

        return guarded(lambda: score(arguments[1:]))
    if verb == "replay":
        from pixel_llm.replay import main as replay

        return guarded(lambda: replay(arguments[1:]))
    if verb == "plan":
        from pixel_llm.planning.command import main as plan

        return guarded(lambda: plan(arguments[1:]))
    if verb == "--version":
        sys.stdout.write(f"pixel-llm {version('pixel-llm')}, lightning {version('lightning')}\n")
        return 0
    known = verb in ("-h", "--help")
    (sys.stdout if known else sys.stderr).write(_usage() if known else f"pixel-llm: no verb {verb!r} (try --help)\n")
    return 0 if known else 2


def _usage() -> str:
    lines = ["pixel-llm VERB ..., each with --help", ""]
    lines += [f"  {', '.join(_TRAINER_VERBS)}: train and evaluate from a YAML (--config)"]
    lines += [f"  {verb}: {what}" for verb, what in _OWN_VERBS.items()]
    return "\n".join(lines) + "\n"


def _ask_about_photo(verb: str, arguments: Sequence[str]) -> None:
    """torch takes seconds to import: not before the arguments are known to make sense."""
    from pixel_llm import photo_arguments

    options = getattr(photo_arguments, f"{verb}_options")(arguments)
    from pixel_llm import photo_commands

    getattr(photo_commands, verb)(options)


def _trainer() -> int:
    from pixel_llm.trainer_cli import run

    return guarded(run)


def guarded(run: Callable[[], object]) -> int:
    """Run, and turn what a person can do something about into one line and exit code 2.

    PIXEL_LLM_DEBUG=1 keeps the traceback.
    """
    from datamodules.shard_index import ShardError
    from pixel_llm.messages import lost_process, one_line

    try:
        run()
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return 130
    except (ShardError, OSError, ValueError, RuntimeError) as error:
        line = lost_process(error) if isinstance(error, RuntimeError) else one_line(error)
        if line is None or os.environ.get("PIXEL_LLM_DEBUG"):
            raise
        sys.stderr.write(f"\nerror: {line}\n")
        return 2
    return 0
