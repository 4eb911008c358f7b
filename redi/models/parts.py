"""What each part of a pipeline is: networks, tokenizers, and whatever else it was made of."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from redi.models.changes import changes, overrides
from redi.models.content import content_hash
from redi.models.described import short_hash

#: the schedule is compared by itself; the checker only judges finished pictures
_LEFT_OUT = ("scheduler", "safety_checker")
_SETTINGS_LEFT_OUT = ("requires_safety_checker",)
#: what a saved configuration says about files and versions
_NOT_SETTINGS = ("transformers_version", "torch_dtype", "dtype", "architectures", "name_or_path")
_SHOWN = 12  # digits of a hash

_TOKENIZERS: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()


def parts_of(pipe: Any) -> dict[str, Any]:
    """Everything that a pipeline computes with, by name; also modules that it never registered."""
    found = {k: v for k, v in pipe.components.items() if k not in _LEFT_OUT}
    found |= {k: v for k, v in vars(pipe).items() if isinstance(v, nn.Module) and k not in found}
    if found.get("image_encoder") is None:  # then it serves the safety checker alone
        found.pop("feature_extractor", None)
    found = {k: v for k, v in found.items() if v is not None and k not in _LEFT_OUT}
    return {name: getattr(part, "_orig_mod", part) for name, part in found.items()}


def describe_parts(pipe: Any) -> dict[str, dict[str, str]]:
    """By part: its class, hashes of its weights and settings, and what was changed on it."""
    found = {name: _describe(part) for name, part in sorted(parts_of(pipe).items())}
    own: dict[str, str] = {}
    names = set(pipe.components) | set(_SETTINGS_LEFT_OUT)
    settings = {k: v for k, v in pipe.config.items() if k not in names}
    if settings := _chosen(type(pipe), settings):
        own["settings"] = _hashed(settings)
    if methods := overrides(pipe):
        own["methods"] = ", ".join(methods)
    return {**found, "pipeline": own} if own else found


def _describe(part: Any) -> dict[str, str]:
    found = {"class": type(part).__name__}
    if settings := _settings(part):
        found["settings"] = _hashed(settings)
    if isinstance(part, nn.Module):
        return {**found, "weights": content_hash(part)[:_SHOWN], **changes(part)}
    if hasattr(part, "get_vocab"):
        found["words"] = _words(part)
    return found


def _settings(part: Any) -> dict[str, Any]:
    """The configuration of a part, where it differs from its class's own."""
    config = getattr(part, "config", part)
    if hasattr(config, "to_diff_dict"):  # transformers
        kept = config.to_diff_dict()
    elif isinstance(config, Mapping):  # diffusers
        kept = _chosen(type(part), config)
    elif not isinstance(part, nn.Module) and hasattr(part, "to_dict"):  # image processors
        kept = part.to_dict()
    else:
        return {}
    return {k: v for k, v in kept.items() if k[0] != "_" and k not in _NOT_SETTINGS}


def _chosen(kind: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Options other than a class's defaults: a later version that adds options changes nothing."""
    parameters = inspect.signature(kind).parameters
    usual = {name: parameter.default for name, parameter in parameters.items()}
    return {
        name: value
        for name, value in config.items()
        if name[0] != "_" and not (name in usual and _json(usual[name]) == _json(value))
    }


def _words(tokenizer: Any) -> str:
    """Hash of the vocabulary, the rules and the limits of a tokenizer."""
    limits = [tokenizer.model_max_length, tokenizer.padding_side, tokenizer.truncation_side]
    seen = [len(tokenizer), *limits]
    if tokenizer not in _TOKENIZERS or _TOKENIZERS[tokenizer][0] != seen:
        rules = getattr(tokenizer, "backend_tokenizer", None)
        known = json.loads(rules.to_str()) if rules is not None else {}
        for state in ("truncation", "padding", "version"):  # of the last call
            known.pop(state, None)
        whole = [limits, sorted(tokenizer.get_vocab().items()), known]
        _TOKENIZERS[tokenizer] = seen, _hashed(whole)
    return _TOKENIZERS[tokenizer][1]


def _hashed(value: Any) -> str:
    return short_hash(_json(value))


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
