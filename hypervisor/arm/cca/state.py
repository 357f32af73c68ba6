"""The host's own view of a Realm's life, and the order in which teardown gives everything back.

This is not the RMM's realm state. The RMM knows NEW, ACTIVE, SYSTEM_OFF and ZOMBIE of an RD that exists; the host must
also know the time before there is an RD, and after. The two are kept apart, as is a third fact: whether a *page* is
delegated says nothing about whether the *object* in it exists (an RD page stays delegated after REALM_DESTROY, and is
delegated before REALM_CREATE). The records (:mod:`hypervisor.arm.cca.records`) hold all three.

Host state::

    NONE ----> NEW ----> ACTIVE
                |           |
                +-> DYING <-+
                      |
                      v
                    DEAD ----> NONE

========  ==============================================================================================
NONE      no records beyond the root page; an ordinary domain
NEW       records exist; RMI objects are being built. From before the first granule is delegated
ACTIVE    REALM_ACTIVATE succeeded; the vCPUs may run
DYING     teardown has begun; nothing but teardown may follow. Stays so while any granule is not returned
DEAD      every granule is Non-secure again; only the records' own pages are left to free
========  ==============================================================================================

Teardown goes through :data:`STAGES` in order, and from the first again when it is restarted: what is done is not done
twice, because each record loses its object, then its page, by single stores. An *object* that the RMM refuses to
destroy stops teardown with an error. A *granule* that it refuses to undelegate does not: the granule stays in its
record (one of guest RAM goes to the abandoned list), the log names it, and the end of the same run and every later run
try again. While any is left the domain stays dying and none of its RAM is freed.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple


class RealmState(IntEnum):
    """The host's view; see the module's text."""

    NONE = 0
    NEW = 1
    ACTIVE = 2
    DYING = 3
    DEAD = 4


TRANSITIONS: Final[dict[RealmState, frozenset[RealmState]]] = {
    RealmState.NONE: frozenset({RealmState.NEW}),
    RealmState.NEW: frozenset({RealmState.ACTIVE, RealmState.DYING}),
    RealmState.ACTIVE: frozenset({RealmState.DYING}),
    RealmState.DYING: frozenset({RealmState.DYING, RealmState.DEAD}),
    RealmState.DEAD: frozenset({RealmState.NONE}),
}


class StateError(Exception):
    """Raised for a transition that the state machine does not have."""


def check_transition(old: RealmState, new: RealmState) -> None:
    """StateError unless ``new`` may follow ``old``."""
    if new not in TRANSITIONS[old]:
        raise StateError(f"a Realm in state {old.name} cannot become {new.name}")


class ObjectState(IntEnum):
    """What the host knows of an RMM object (the realm, a REC), apart from the page that it is in."""

    #: Never created, or destroyed.
    ABSENT = 0
    #: The creating command was about to be issued: the object may exist.
    MAYBE = 1
    #: The creating command succeeded.
    EXISTS = 2
    #: Realms only: REALM_TERMINATE succeeded.
    TERMINATED = 3


class Stage(NamedTuple):
    """A stage of teardown."""

    name: str
    #: What the stage gives back.
    returns: str
    #: What is kept, and where, when the RMM refuses to undelegate a granule.
    kept: str


STAGES: Final = (
    Stage("operation", "an operation that its process left unfinished is cancelled, or driven to its end",
          "pages it will not return stay in their ledger"),
    Stage("terminate", "nothing; no REC can be entered from here on", ""),
    Stage("data", "guest RAM: unmapped table by table, undelegated run by run. The pages stay the domain's",
          "the granule goes to the abandoned list"),
    Stage("rtt", "translation tables, last created first: destroyed, undelegated, freed", "its table record"),
    Stage("rec", "RECs: destroyed, their auxiliary pages and their own page undelegated and freed, RecRun freed",
          "the REC's record and its ledger"),
    Stage("realm", "the realm: destroyed; its donated pages, the root table, the RD undelegated and freed",
          "the root page's fields and ledger"),
    Stage("abandoned", "everything refused before is tried once more", "where it is"),
    Stage("records", "the work pages and the record pages", ""),
)
