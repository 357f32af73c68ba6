"""The sound card language of `vsnd`: one list of items for each card, each item `card|pcm|stream, key=value...`."""

from __future__ import annotations

from collections.abc import Sequence

from xlconfig.c_text import as_uint32, strtok, strtoul
from xlconfig.devices import Vsnd, VsndParams, VsndPcm, VsndStream
from xlconfig.domain_config import ConfigError
from xlconfig.enumerations import VsndFormat, VsndStreamType, from_libxl

__all__ = ["parse_sound_card"]

NUMBERS = {"channels-min": "channels_min", "channels-max": "channels_max", "buffer-size": "buffer_size"}


def parse_sound_card(items: Sequence[str], devid: int) -> Vsnd:
    """Parse the items of one card. A stream belongs to the last PCM before it. Raises ConfigError (status 1)."""
    card = Vsnd(devid=devid)
    for item in items:
        tokens = [token.lstrip(" ") for token in strtok(item, ",")]
        if tokens:
            _item(card, tokens[0], tokens[1:])
    return card


def _item(card: Vsnd, kind: str, fields: Sequence[str]) -> None:
    match kind.lower():
        case "card":
            for field in fields:
                _card_field(card, field)
        case "pcm":
            card.pcms.append(VsndPcm())
            for field in fields:
                _pcm_field(card.pcms[-1], field)
        case "stream":
            if not card.pcms:
                card.pcms.append(VsndPcm())
            card.pcms[-1].streams.append(VsndStream())
            for field in fields:
                _stream_field(card.pcms[-1].streams[-1], field)
        case _:
            raise ConfigError(f"Invalid key: {kind}")


def _card_field(card: Vsnd, field: str) -> None:
    key, equals, value = field.partition("=")
    if equals and key == "backend":
        card.backend_domname = value
    elif equals and key == "short-name":
        card.short_name = value
    elif equals and key == "long-name":
        card.long_name = value
    elif not _parameter(card.params, key, equals, value):
        raise ConfigError(f"Invalid parameter: {field}")


def _pcm_field(pcm: VsndPcm, field: str) -> None:
    key, equals, value = field.partition("=")
    if equals and key == "name":
        pcm.name = value
    elif not _parameter(pcm.params, key, equals, value):
        raise ConfigError(f"Invalid parameter: {field}")


def _stream_field(stream: VsndStream, field: str) -> None:
    key, equals, value = field.partition("=")
    if equals and key == "unique-id":
        stream.unique_id = value
    elif equals and key == "type":
        kind = from_libxl(VsndStreamType, value)
        if not kind:
            raise ConfigError(f"Invalid stream type: {value}")
        stream.type = kind
    elif not _parameter(stream.params, key, equals, value):
        raise ConfigError(f"Invalid parameter: {field}")


def _parameter(params: VsndParams, key: str, equals: str, value: str) -> bool:
    """Read a field that cards, PCMs and streams share; False when it is none."""
    if not equals:
        return False
    if key == "sample-rates":
        params.sample_rates = [as_uint32(strtoul(rate)[0]) for rate in strtok(value, ";")]
    elif key == "sample-formats":
        params.sample_formats = [_format(name) for name in strtok(value, ";")]
    elif key in NUMBERS:
        setattr(params, NUMBERS[key], as_uint32(strtoul(value)[0]))
    else:
        return False
    return True


def _format(name: str) -> VsndFormat:
    found = from_libxl(VsndFormat, name)
    if found is None:
        raise ConfigError(f"Invalid pcm format: {name}")
    return found
