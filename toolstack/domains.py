"""Finding domains by what the user typed."""

from __future__ import annotations

from hypervisor.rpc.client import RpcError
from hypervisor.rpc.messages import DomainInfo, DomainList, DomainRef, Nothing
from toolstack.connection import Connection
from toolstack.errors import invalid_domain

#: Highest domid + 1 that the protocol can carry (DOMID_FIRST_RESERVED).
DOMID_LIMIT = 0x7FF0


def all_domains(connection: Connection) -> list[DomainInfo]:
    """Every domain, in order of domid."""
    return connection.call("domain_list", Nothing(), DomainList).domains


def domid_of(connection: Connection, identifier: str) -> int:
    """The domid that IDENTIFIER names. As in Xen, digits are a domid and not looked at, anything else is a name.

    Raises XlError when no domain has that name, and for the empty identifier.
    """
    if identifier.isascii() and identifier.isdigit():
        if int(identifier) >= DOMID_LIMIT:
            raise invalid_domain(identifier)
        return int(identifier)
    for domain in all_domains(connection):
        if domain.name == identifier:
            return domain.domid
    raise invalid_domain(identifier)


def info_of(connection: Connection, domid: int) -> DomainInfo | None:
    """The domain, None when there is none with that domid."""
    try:
        return connection.call("domain_info", DomainRef(domid=domid), DomainInfo)
    except RpcError as error:
        if error.code == "no_domain":
            return None
        raise
