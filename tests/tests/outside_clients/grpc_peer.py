"""A gRPC server or client of the public library, for one address: `serve HOST:PORT` or `call HOST:PORT`.

The client prints what it did, or ends with a traceback."""

import sys
import threading
from concurrent import futures

import grpc

SERVICE = "test.Echo"
LARGE = bytes(range(256)) * 4096  # a mebibyte
CALLS = 50


def once(request, context):
    sent = {k: v for k, v in context.invocation_metadata() if k.startswith("x-")}
    context.send_initial_metadata((("x-first", sent.get("x-asked", "")),))
    context.set_trailing_metadata((("x-last-bin", bytes([0, 255, 10])),))
    return request


def fail(request, context):
    context.set_trailing_metadata((("x-why", "the test asked"),))
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough: 100 % \u00fc")


def both(requests, context):
    for request in requests:
        yield request


cancelled = threading.Event()


def hang(request, context):
    done = threading.Event()
    context.add_callback(done.set)
    done.wait(20)
    cancelled.set()
    return b""


def was_cancelled(request, context):
    return b"yes" if cancelled.wait(10) else b"no"


def serve(address):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    unary = grpc.unary_unary_rpc_method_handler
    handlers = {
        "Once": unary(once),
        "Fail": unary(fail),
        "Hang": unary(hang),
        "WasCancelled": unary(was_cancelled),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    assert server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


def call(address):
    options = (("grpc.max_receive_message_length", 4 << 20),)
    with grpc.insecure_channel(address, options=options) as channel:
        method = lambda name: channel.unary_unary(f"/{SERVICE}/{name}")
        for body in (b"", b"hello", LARGE):
            answer, told = method("Once").with_call(body, metadata=(("x-asked", "please"),), timeout=20)
            assert answer == body, len(answer)
            assert ("x-first", "please") in told.initial_metadata(), told.initial_metadata()
            assert ("x-last-bin", bytes([0, 255, 10])) in told.trailing_metadata(), told.trailing_metadata()
        print("unary: good")

        waiting = [method("Once").future(b"%d" % n, timeout=20) for n in range(CALLS)]
        assert [w.result() for w in waiting] == [b"%d" % n for n in range(CALLS)]
        print(f"{CALLS} at once: good")

        try:
            method("Fail")(b"", timeout=20)
            raise AssertionError("it did not fail")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
            assert error.details() == "enough: 100 % \u00fc", error.details()
            assert ("x-why", "the test asked") in error.trailing_metadata(), error.trailing_metadata()
        print("error: good")

        # Each message is sent only after the one before it came back: nothing may wait for more.
        turn = threading.Semaphore(1)

        def messages():
            for n in range(1000):
                assert turn.acquire(timeout=10)
                yield b"%d" % n

        count = 0
        for answer in channel.stream_stream(f"/{SERVICE}/Both")(messages(), timeout=30):
            assert answer == b"%d" % count
            count += 1
            turn.release()
        assert count == 1000, count
        print("streams: good")

        try:
            method("Hang")(b"", timeout=0.5)
            raise AssertionError("it answered")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        assert method("WasCancelled")(b"", timeout=20) == b"yes"
        print("deadline: good")


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](sys.argv[2])
