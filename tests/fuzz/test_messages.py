"""Every rpc, over every door, says yes or gives a reason that its contract names, whatever it is sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.calling import USERS, WAYS, Outside, callers
from tests.fuzz.contracts import Called
from tests.fuzz.requests import broken, metadata
from tests.fuzz.searching import searching

every_way = pytest.mark.parametrize(("called", "door"), WAYS, ids=str)


@every_way
@searching(25)
@given(data=st.data())
def test_what_nearly_keeps_to_the_contract(data: st.DataObject, called: Called, door: str, outside: Outside) -> None:
    caller = data.draw(st.sampled_from(callers(called.rpc)), "caller")
    request = data.draw(outside.requests.message(called.method.input_type, apt=True), "request")

    outside.say(called, door, caller, request.SerializeToString())


@every_way
@searching(10)
@given(data=st.data())
def test_what_keeps_to_the_types_alone(data: st.DataObject, called: Called, door: str, outside: Outside) -> None:
    caller = data.draw(st.sampled_from([None, *USERS, *callers(called.rpc)]), "caller")
    request = data.draw(outside.requests.message(called.method.input_type, apt=False), "request")

    outside.say(called, door, caller, request.SerializeToString())


@every_way
@searching(10)
@given(data=st.data())
def test_what_keeps_to_nothing(data: st.DataObject, called: Called, door: str, outside: Outside) -> None:
    caller = data.draw(st.sampled_from(callers(called.rpc)), "caller")
    request = data.draw(broken(outside.requests.message(called.method.input_type, apt=True)), "request")

    outside.say(called, door, caller, request, data.draw(metadata(), "metadata"))
