"""What was changed on a module after loading: adapters, processors, hooks, patches."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from redi.models.described import short_hash

_LIBRARIES = frozenset(
    ("torch", "diffusers", "transformers", "peft", "accelerate", "bitsandbytes", "torchao")
)
#: who wraps a forward pass to run hooks around it
_WRAPPERS = ("accelerate", "diffusers")
#: who moves weights about, or only looks on
_NEUTRAL_HOOKS = ("accelerate", "transformers", "redi")
_NEUTRAL_NAMES = re.compile(r"group_offloading|layer_execution|lazy_|peft_autocast|cp_")
#: forms of one computation, equal but for rounding
_SAME_ATTENTION = re.compile(
    "(Sliced|XFormers|XLA|Flash|Fused|Flux|Joint)*Attn(AddedKV)?Processor(2_0)?(_?NPU)?"
)
_FREEU = ("s1", "s2", "b1", "b2")


def changes(module: nn.Module) -> dict[str, str]:
    """By kind, what neither the weights nor the configuration of a module tell; empty: nothing.

    Each is a few words with a hash of the whole. Values that a hook keeps to itself are not seen.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for name, part in module.named_modules():
        for kind, text in _of(part):
            found.setdefault(kind, []).append((name, text))
    return {kind: _summary(places) for kind, places in found.items()}


def overrides(thing: Any) -> list[str]:
    """Methods of its class that an object has been given others of."""
    kind = type(thing)
    own = [(n, f) for n, f in vars(thing).items() if callable(getattr(kind, n, None))]
    return [f"{n}: {_function(f)}" for n, f in own if callable(f) and not isinstance(f, nn.Module)]


def _of(part: nn.Module) -> Iterator[tuple[str, str]]:
    has = vars(part)  # far faster than asking a module for what it lacks
    kind = type(part)
    if {kind.__module__.split(".")[0], _module(kind.forward)} - _LIBRARIES:
        yield "classes", f"{_class(kind)} {_function(kind.forward)}"
    if "merged_adapters" in has:
        yield "adapters", _adapters(part)
    if any(has.get(key) is not None for key in _FREEU):
        yield "freeu", str({key: has.get(key) for key in _FREEU})
    processor = has.get("processor") or has["_modules"].get("processor")
    if processor is not None and (text := _processor(processor)):
        yield "processors", text
    if has.get("padding_mode", "zeros") != "zeros":
        yield "padding", str(has["padding_mode"])
    if part.training and (has.get("p") or "running_mean" in has["_buffers"]):
        yield "training", kind.__name__
    if has.get("use_tiling"):
        yield "tiling", str({k: v for k, v in sorted(has.items()) if k.startswith("tile_")})
    yield from _hooks(part)


def _hooks(part: nn.Module) -> Iterator[tuple[str, str]]:
    has, kind = vars(part), type(part)
    for hook in (*has["_forward_pre_hooks"].values(), *has["_forward_hooks"].values()):
        if _module(hook) not in _NEUTRAL_HOOKS:
            yield "hooks", _function(hook)
    registry = has.get("_diffusers_hook")
    for name, hook in ({} if registry is None else registry.hooks).items():
        if not _NEUTRAL_NAMES.match(name):
            settings = _plain(hook) | _plain(getattr(hook, "config", None))
            yield "hooks", f"{_class(type(hook))} {settings}"
    forward = has.get("forward")
    while isinstance(forward, functools.partial) and _module(forward) in _WRAPPERS:
        forward = getattr(forward, "__wrapped__", None)
    if forward is not None and getattr(forward, "__func__", None) is not kind.forward:
        yield "forward", _function(forward)


def _adapters(layer: Any) -> str:
    """Which adapters a layer uses, and how strongly: none of it is in the weights."""
    used = [] if layer.disable_adapters else layer.active_adapters
    texts = [f"{name} x {layer.scaling.get(name)}" for name in used]
    return ", ".join(texts + [f"{name} merged" for name in layer.merged_adapters]) or "none in use"


def _processor(processor: Any) -> str:
    kind, plain = type(processor), _plain(processor)
    plain.pop("slice_size", None)
    same = _SAME_ATTENTION.fullmatch(kind.__name__) and kind.__module__.startswith("diffusers.")
    return "" if same and not plain else f"{_class(kind)} {plain}"


def _plain(thing: Any) -> dict[str, Any]:
    """Numbers and texts among the attributes, and lists of them."""
    return {
        name: value
        for name, value in sorted(getattr(thing, "__dict__", {}).items())
        if name[0] != "_" and name != "training" and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, str))


def _function(function: Callable[..., Any]) -> str:
    """A function's name and a hash of its code."""
    bare: Any = _bare(function)
    code = getattr(bare, "__code__", None)
    name = f"{getattr(bare, '__module__', '')}.{getattr(bare, '__qualname__', type(bare).__name__)}"
    if code is None:
        return name
    constants = [c for c in code.co_consts if _is_plain(c)]
    return f"{name} {short_hash(code.co_code, repr((code.co_names, constants)))}"


def _module(function: Any) -> str:
    bare = _bare(function)
    return (getattr(bare, "__module__", None) or type(bare).__module__).split(".")[0]


def _bare(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function.__func__ if inspect.ismethod(function) else function


def _class(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _summary(found: list[tuple[str, str]]) -> str:
    """What was changed, where, and a hash of all of it."""
    kinds = list(dict.fromkeys(text for _, text in found))
    what = kinds[0] if len(kinds) == 1 else f"{kinds[0]} and {len(kinds) - 1} other kinds"
    places = found[0][0] or "the whole" if len(found) == 1 else f"{len(found)} places"
    return f"{what} at {places} ({short_hash(*(part for pair in found for part in pair))})"
