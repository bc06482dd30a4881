"""Default, moved and free ports; a taken one is named with its owner and the way out."""

from __future__ import annotations

import os
import socket
from dataclasses import astuple, replace

import pytest

from deploy.local.ports import Ports, default_ports, free_ports, require_free
from mesh.serve import PortTaken


def test_metrics_are_1100_above_grpc() -> None:
    ports = default_ports()

    for service in ("gateway", "registry", "transformer", "predictor", "explainer"):
        assert getattr(ports, f"{service}_metrics") == getattr(ports, service) + 1100


def test_an_offset_moves_every_port() -> None:
    moved = [port - default for port, default in zip(astuple(default_ports(100)), astuple(Ports()), strict=True)]

    assert set(moved) == {100}


def test_the_http_port_can_be_set_alone() -> None:
    assert default_ports(http_port=9999) == replace(Ports(), gateway_http=9999)
    assert default_ports(http_port=0).gateway_http not in (0, 8080)


def test_an_offset_out_of_range_is_refused_with_a_sentence() -> None:
    with pytest.raises(PortTaken, match=r"--port-offset 60000 moves the port of gateway_http to 68080"):
        default_ports(60_000)


def test_free_ports_are_all_different() -> None:
    ports = astuple(free_ports())

    assert len(set(ports)) == len(ports)


def test_a_taken_port_is_named_with_its_owner_and_the_way_out() -> None:
    ports = free_ports()
    with socket.create_server(("127.0.0.1", ports.gateway_http)), pytest.raises(PortTaken) as raised:
        require_free("127.0.0.1", ports)

    message = raised.value.message
    assert f"port {ports.gateway_http} (gateway HTTP) is taken by" in message
    assert f"(pid {os.getpid()})" in message
    assert "--http-port" in message
    assert "--port-offset 100" in message
    assert "\n" not in message


def test_a_taken_port_of_another_service_is_named_after_it() -> None:
    ports = free_ports()
    with socket.create_server(("127.0.0.1", ports.registry)), pytest.raises(PortTaken, match=r"\(registry gRPC\)"):
        require_free("127.0.0.1", ports)


def test_free_ports_pass() -> None:
    require_free("127.0.0.1", free_ports())
