"""TorchServe's messages as its own jar describes them: the second reader of everything that we say over gRPC.

No stub is committed: the descriptors are those that protoc left in the classes of the released jar, and google's
protobuf makes messages of them.
"""

from __future__ import annotations

import functools
import struct
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, empty_pb2, message_factory

DESCRIBED = (
    "com/google/rpc/StatusProto.class",
    "org/pytorch/serve/grpc/inference/Inference.class",
    "org/pytorch/serve/grpc/management/Management.class",
    "org/pytorch/serve/grpc/openinference/OpenInferenceGrpc.class",
)
SERVICES = (
    "org.pytorch.serve.grpc.inference.InferenceAPIsService",
    "org.pytorch.serve.grpc.management.ManagementAPIsService",
    "org.pytorch.serve.grpc.openinference.GRPCInferenceService",
)
# What stands behind the tag of a constant (JVMS 4.4), by the tag; 5 and 6 count twice.
SIZES = {3: 4, 4: 4, 5: 8, 6: 8, 7: 2, 8: 2, 9: 4, 10: 4, 11: 4, 12: 4, 15: 3, 16: 2, 17: 4, 18: 4, 19: 2, 20: 2}


def jar() -> Path:
    spec = find_spec("ts")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "frontend" / "model-server.jar"


def constants(content: bytes) -> Iterator[str]:
    """The texts of a class."""
    (count,) = struct.unpack_from(">H", content, 8)
    position, index = 10, 1
    while index < count:
        tag = content[position]
        position += 1
        if tag == 1:
            (size,) = struct.unpack_from(">H", content, position)
            text = content[position + 2 : position + 2 + size]
            yield text.replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogatepass")
            position += 2 + size
        else:
            position += SIZES[tag]
            index += tag in {5, 6}
        index += 1


@functools.cache
def pool() -> descriptor_pool.DescriptorPool:
    found = descriptor_pool.DescriptorPool()
    for known in (any_pb2, empty_pb2):
        found.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    with zipfile.ZipFile(jar()) as archive:
        for name in DESCRIBED:
            texts = [text for text in constants(archive.read(name)) if ".proto" in text[:64] and text[0] == "\n"]
            file = descriptor_pb2.FileDescriptorProto.FromString("".join(texts).encode("latin-1"))
            found.Add(file)
    return found


def methods():
    """Every method of the three services: its path, and its descriptor."""
    for service in SERVICES:
        for method in pool().FindServiceByName(service).methods:
            yield f"/{service}/{method.name}", method


@functools.cache
def of(path: str):
    """The classes of a method's request and answer."""
    service, _, name = path[1:].partition("/")
    method = pool().FindServiceByName(service).FindMethodByName(name)
    return message_factory.GetMessageClass(method.input_type), message_factory.GetMessageClass(method.output_type)


def request(path: str, **fields) -> bytes:
    return of(path)[0](**fields).SerializeToString()


def answer(path: str, content: bytes):
    return of(path)[1].FromString(content)


INFERENCE, MANAGEMENT, OPEN_INFERENCE = (f"/{SERVICES[at]}/" for at in range(3))
