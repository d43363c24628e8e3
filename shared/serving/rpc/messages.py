"""The messages of `inference.proto` as classes, and the methods of its service.

They live in a pool of their own. The code that protoc would write puts them into the one that all of a process shares,
where tritonclient's messages have the same names, and it demands a protobuf as new as the protoc that wrote it.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"
DESCRIPTORS = "inference.binpb"
"""`inference.proto`, compiled: a serialized FileDescriptorSet."""


@functools.cache
def pool() -> Any:
    """The descriptors of everything in `inference.proto`."""
    content = resources.files(__package__).joinpath(DESCRIPTORS).read_bytes()
    made = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
        made.Add(file)
    return made


@functools.cache
def message(name: str) -> Any:
    """The class of one message, such as `ModelInferRequest`."""
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(f"inference.{name}"))


def methods() -> list[Any]:
    """The descriptors of the service's methods."""
    return list(pool().FindServiceByName(SERVICE).methods)
