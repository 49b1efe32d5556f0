"""A real folder beside its model: what store objects were told, and what of it is durable.

A call that a store acknowledged as durable is played into the model at once. Every other one waits
in its `Partner`: other store objects may see it any time (the store commits on its own within a
second), or never (after a crash), but always in the order in which it was recorded. Where the model
cannot know which, it forks: each possible future is compared with what the store shows, and the one
that agrees is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.ids import new_id
from tests.model.partner import Call, Need, Partner, Player, Verdict
from tests.model.state import Reference, Row, State

__all__ = ["Future", "SideBySide", "describe_difference"]


@dataclass
class Future:
    """One possible present: how many of each partner's pending calls have been committed."""

    state: State
    done: dict[str, int]


class SideBySide:
    """The state of the model, the store objects on the folder, and the futures between them."""

    def __init__(self) -> None:
        self.state = State()
        self.partners: list[Partner] = []
        self.saved: dict[str, Row] = {}
        self.stray: set[str] = set()
        """Artifacts whose file a crash left without a row."""
        self.history: list[Call] = []
        self._order = itertools.count()

    # -- coming and going ----------------------------------------------------------------------

    def join(self, store: Any) -> Partner:
        """Take in a store object."""
        partner = Partner(store, new_id())
        self.state.sessions[partner.session] = None
        self.partners.append(partner)
        return partner

    def leave(self, partner: Partner) -> None:
        """Close: what was recorded is durable, the session is over."""
        self.acknowledge(partner)
        self._end(partner)

    def lose(self, partner: Partner, observe: Callable[[], Any], expect: Callable[[State], Any]) -> None:
        """Crash: some first part of what was not acknowledged may be there; look which."""
        partner.block = partner.transaction = None
        lost = {artifact_id for call in partner.pending for artifact_id in call.artifacts}
        self.stray |= lost | partner.claims | partner.doubts
        self.state.sessions[partner.session] = datetime.now(UTC)
        partner.claims.clear()
        partner.doubts.clear()
        self.settle(observe(), expect, None)
        self._end(partner)

    def _end(self, partner: Partner) -> None:
        self.state.sessions[partner.session] = datetime.now(UTC)
        self.partners.remove(partner)

    # -- recording -----------------------------------------------------------------------------

    def record(
        self,
        partner: Partner,
        name: str,
        arguments: dict[str, Any],
        needs: tuple[Need, ...] = (),
        *,
        commits: bool = False,
        also: Verdict = "yes",
    ) -> str | None:
        """Make a recording call and note what came of it; gives the new id, None when it was refused.

        Parameters
        ----------
        commits
            The call is durable when it returns (outside transactions).
        also
            Whether it has to be accepted for what else is known of it.
        """
        verdicts = [also, *(self.verdict(partner, need) for need in needs)]
        artifacts = {need.identifier for need in needs if need.kind == "artifact"}
        try:
            result: str | None = getattr(partner.store, name)(**arguments)
        except (UnknownId, InvalidInput) as error:
            self._claimed_in_vain(partner, needs, verdicts[1:])
            if all(verdict == "yes" for verdict in verdicts):
                raise AssertionError(f"{name}({arguments}) was refused: {error}") from error
            return None
        if "no" in verdicts:
            raise AssertionError(f"{name}({arguments}) was accepted, but {needs} cannot all exist")
        for need in needs:
            self._seen(partner, need.identifier)
        if name == "save_artifact" and result is not None:
            self._remember(result, arguments)
            artifacts = {result}
        call = Call(name, partner.session, next(self._order), result, arguments, frozenset(artifacts))
        self.history.append(call)
        partner.claims |= artifacts
        partner.touched |= {need.identifier for need in needs} | ({result} if result else set())
        if partner.block is not None:
            partner.block.append(call)
            return result
        partner.pending.append(call)
        if commits:
            self.acknowledge(partner)
        return result

    def _claimed_in_vain(self, partner: Partner, needs: tuple[Need, ...], verdicts: list[Verdict]) -> None:
        """Note what a refused call claimed: its claims stand until the next commit.

        The pipeline is looked at first. Then artifacts are claimed one by one, up to the one that is not there.
        """
        asked = list(zip(needs, verdicts, strict=True))
        artifacts = [(need.identifier, verdict) for need, verdict in asked if need.kind == "artifact"]
        if all(verdict == "yes" for _, verdict in artifacts):
            return  # it was the pipeline
        sure = all(verdict == "yes" for need, verdict in asked if need.kind != "artifact")
        for identifier, verdict in artifacts:
            if identifier in self.saved:
                (partner.claims if sure else partner.doubts).add(identifier)
            if verdict == "no":
                return
            sure = sure and verdict == "yes"

    def acknowledge(self, partner: Partner) -> None:
        """All that a partner recorded outside a transaction is durable now."""
        self._play(self.state, partner.pending)
        partner.pending = []
        in_block = any(call.artifacts for call in partner.block or ())
        if not in_block:
            partner.claims, partner.doubts = set(), set()

    def begin(self, partner: Partner) -> None:
        """Open a transaction."""
        partner.transaction = partner.store.transaction()
        partner.transaction.__enter__()
        partner.block = []
        partner.ended_in_block, partner.forgetful = {}, False

    def commit(self, partner: Partner) -> None:
        """End a transaction: it is durable as a whole."""
        if partner.transaction is None:
            raise AssertionError("no transaction is under way")
        partner.transaction.__exit__(None, None, None)
        partner.pending += partner.block or []
        partner.ended = partner.ended_in_block | partner.ended
        partner.block, partner.transaction, partner.ended_in_block = None, None, {}
        partner.forgetful = False
        self.acknowledge(partner)

    def roll_back(self, partner: Partner, error: BaseException) -> None:
        """End a transaction by an exception: nothing of it is left but blobs, for a gc to find."""
        if partner.transaction is None:
            raise AssertionError("no transaction is under way")
        partner.transaction.__exit__(type(error), error, None)
        block = partner.block or []
        partner.block, partner.transaction, partner.ended_in_block = None, None, {}
        partner.forgetful = False
        undone = {call.result for call in block if call.result is not None and call.name != "save_artifact"}
        partner.touched -= undone
        for call in block:
            if call.name == "save_artifact":
                within = call.arguments.get("pipeline_id") in undone
                arguments = call.arguments | ({"pipeline_id": None} if within else {})
                partner.pending.append(replace(call, arguments=arguments))

    def _remember(self, artifact_id: str, arguments: dict[str, Any]) -> None:
        # One row by content: what a model makes of the bytes, to be put back when a chain travels with it.
        if artifact_id not in self.saved:
            scratch = State()
            Player(scratch, "").save_artifact(**(arguments | {"pipeline_id": None}))
            self.saved[artifact_id] = scratch.artifacts[artifact_id]

    def _seen(self, partner: Partner, identifier: str) -> None:
        """A call named what another partner had not acknowledged, and was accepted: it was committed.

        Unless it was there before, and the other one only saved it again.
        """
        if identifier in partner.touched or identifier in _identifiers(self.state):
            return
        for other in self.partners:
            for count, call in enumerate(other.pending, start=1):
                if other is not partner and call.result == identifier:
                    self._adopt(self._future({other.session: count}))
                    return

    def change(self, partner: Partner, name: str, arguments: dict[str, Any], result: Any) -> None:
        """Note a call that changed the catalog at once; what it said must fit one of the futures."""
        self.acknowledge(partner)
        partner.forgetful = partner.block is not None
        answers = []
        trusted = (True, False) if any(other.doubts for other in self.partners) else (True,)
        for future, doubts in ((future, doubts) for doubts in trusted for future in self.futures(partner)):
            state, before = future.state, _identifiers(future.state)
            # While a deletion is played, a claim counts as a reference.
            claims = sorted(self.claimed(future, doubts=doubts) & state.artifacts.keys())
            state.references += [Reference(key, "claim", "claim", None) for key in claims]
            answers.append(getattr(Player(state, partner.session), name)(**arguments))
            state.references = [ref for ref in state.references if ref.owner_kind != "claim"]
            if answers[-1] == result:
                self._adopt(future)
                partner.touched -= before - _identifiers(state)
                return
        raise AssertionError(f"{name}({arguments}) said {result!r} in the store, {answers[0]!r} in the model")

    # -- what exists ---------------------------------------------------------------------------

    def verdict(self, partner: Partner, need: Need) -> Verdict:
        """Tell whether a call that names this has to be accepted."""
        there = self.present(partner, need.kind, need.identifier)
        if there == "no" or not need.accepting:
            return there
        row = self.state.pipelines.get(need.identifier)
        failed = row is not None and row["status"] == "failed"
        if (partner.ended_in_block | partner.ended).get(need.identifier) == "failed":
            # Unless somebody else had completed it before: then either answer is right.
            known = failed or row is None or need.identifier in partner.ended_in_block
            return "no" if known and not partner.forgetful else "maybe"
        if not failed:
            return there
        return "maybe" if need.identifier in partner.touched else "no"

    def failing(self, partner: Partner, pipeline_id: str) -> bool:
        """Whether the transaction under way fails a pipeline, by itself or with its run.

        What is saved for it after that comes before the failure in the store, where the rows of a commit are
        written before its changes, and after it in the model. Both drop it; only the store's log says so.
        """
        run_id = self.state.pipelines.get(pipeline_id, {}).get("run_id")
        for call in partner.block or ():
            if call.result == pipeline_id:
                run_id = call.arguments["run_id"]
        failed = {"fail_run": run_id, "fail_pipeline": pipeline_id}
        return any(
            call.arguments[call.name.replace("fail_", "") + "_id"] == failed[call.name]
            for call in partner.block or ()
            if call.name in failed
        )

    def note_end(self, partner: Partner, pipeline_id: str, status: str) -> None:
        """A store object ended a pipeline; its first word is what it goes by."""
        notes = partner.ended if partner.block is None else partner.ended_in_block
        notes.setdefault(pipeline_id, partner.ended.get(pipeline_id, status))

    def present(self, partner: Partner, kind: str, identifier: str, *, in_block: bool = True) -> Verdict:
        """Tell whether a store object must know an id; `in_block`: also what its transaction made."""
        if identifier in getattr(self.state, f"{kind}s"):
            return "yes"
        mine = (*partner.pending, *(partner.block or () if in_block else ()))
        if any(call.result == identifier for call in mine):
            return "maybe" if self._doomed(mine, identifier) else "yes"
        elsewhere = any(
            call.result == identifier
            for other in self.partners
            if other is not partner
            for call in other.pending
        )
        return "maybe" if elsewhere or identifier in partner.touched else "no"

    def _doomed(self, calls: tuple[Call, ...], identifier: str) -> bool:
        """Whether rows on their way will be dropped, because their owner is gone."""
        state = self.state.copy()
        self._play(state, list(calls))
        return identifier not in _identifiers(state)

    # -- futures -------------------------------------------------------------------------------

    def futures(self, observer: Partner | None) -> Iterator[Future]:
        """Give every present that is possible, the one in which least has happened first."""
        others = [partner for partner in self.partners if partner is not observer and partner.pending]
        ranges = [range(len(partner.pending) + 1) for partner in others]
        for counts in sorted(itertools.product(*ranges), key=sum):
            yield self._future({p.session: n for p, n in zip(others, counts, strict=True)})

    def settle(self, seen: Any, expect: Callable[[State], Any], observer: Partner | None) -> None:
        """Keep the future that agrees with what was seen; none is an error."""
        first: Any = None
        for future in self.futures(observer):
            expected = expect(future.state)
            if expected == seen:
                self._adopt(future)
                return
            first = first if first is not None else (expected,)
        raise AssertionError(describe_difference(first[0], seen))

    def claimed(self, future: Future, *, doubts: bool) -> set[str]:
        """Artifacts that no gc may take in this future; `doubts`: refused calls claimed what they may have."""
        found: set[str] = set()
        for partner in self.partners:
            done = future.done.get(partner.session, 0)
            in_block = {a for call in partner.block or () for a in call.artifacts}
            if done == 0 or in_block:
                found |= partner.claims | (partner.doubts if doubts else set())
            else:
                found.update(a for call in partner.pending[done:] for a in call.artifacts)
        return found

    def _future(self, done: dict[str, int]) -> Future:
        state = self.state.copy()
        calls = [call for p in self.partners for call in p.pending[: done.get(p.session, 0)]]
        self._play(state, sorted(calls, key=lambda call: call.order))
        return Future(state, done)

    def _adopt(self, future: Future) -> None:
        self.state = future.state
        for partner in self.partners:
            done = future.done.get(partner.session, 0)
            if done:
                partner.pending = partner.pending[done:]
                in_block = any(call.artifacts for call in partner.block or ())
                if not in_block:
                    partner.claims = {a for call in partner.pending for a in call.artifacts}
                    partner.doubts = set()
        self.stray -= set(self.state.artifacts)

    def _play(self, state: State, calls: list[Call]) -> None:
        for call in calls:
            Player(state, call.session, call).play(call, self.saved)
        if state is self.state:
            self.stray -= set(state.artifacts)


def _identifiers(state: State) -> set[str]:
    return {*state.runs, *state.pipelines, *state.chains, *state.predictions, *state.artifacts}


def describe_difference(expected: Any, seen: Any, where: str = "") -> str:
    """Say in one line each where two nested values differ."""
    if isinstance(expected, dict) and isinstance(seen, dict):
        lines = []
        for key in sorted(expected.keys() | seen.keys(), key=str):
            place = f"{where}/{key}"
            if key not in seen:
                lines.append(f"{place}: missing in the store; the model has {expected[key]!r}")
            elif key not in expected:
                lines.append(f"{place}: only in the store: {seen[key]!r}")
            elif expected[key] != seen[key]:
                lines.append(describe_difference(expected[key], seen[key], place))
        return "\n".join(lines)
    return f"{where or 'answer'}: the model has {expected!r}, the store {seen!r}"
