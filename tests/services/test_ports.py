from __future__ import annotations

import socket

import pytest

from fusemld.model.errors import StartError
from fusemld.services.ports import PORTS, choose_port, is_free


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    port = choose_port(())
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier server may linger
        server.bind(("127.0.0.1", port))
        server.listen()

        assert not is_free("127.0.0.1", port)
    assert is_free("127.0.0.1", port)


def test_a_port_that_is_given_to_another_service_is_not_chosen() -> None:
    free = choose_port(())

    assert choose_port(set(PORTS) - {free}) == free


def test_having_no_port_left_is_an_error() -> None:
    with pytest.raises(StartError, match="cannot find a free port"):
        choose_port(PORTS)
