"""`--help`: what a command is for, with examples, and its flags, a line each."""

import sys

from absl import flags

ASKS = ("--help", "-help", "-h", "-?")


def asked(argv: list[str]) -> bool:
    """Whether the command line asks for help."""
    words = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    return any(word in ASKS for word in words)


def text() -> str:
    """The help of the command that runs: its module's docstring, and its flags."""
    lines = [(sys.modules["__main__"].__doc__ or "").strip(), "", "Flags:"]
    own = [flag for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]) if flag.name not in ("help", "helpfull")]
    shown = [(_written(flag), _said(flag)) for flag in own]
    if "config" in flags.FLAGS:
        shown.append(("--config.KEY=VALUE", "Any key of the configuration; --print_config shows them all."))
    width = max((len(written) for written, _ in shown), default=0) + 2
    lines += [f"  {written:<{width}}{said}" for written, said in shown]
    return "\n".join(lines)


def _written(flag: flags.Flag) -> str:
    return f"--{flag.name}" if flag.boolean else f"--{flag.name}={_value(flag)}"


def _value(flag: flags.Flag) -> str:
    if flag.name == "config":
        return "FILE"
    return {"int": "N", "float": "X", "comma separated list of strings": "A,B"}.get(flag.flag_type(), "TEXT")


def _said(flag: flags.Flag) -> str:
    said = " ".join((flag.help or "").split())
    if flag.boolean or flag.default is None or "default" in said:
        return said
    return f"{said.removesuffix('.')} (default: {flag.default_as_str.strip(chr(39))})."
