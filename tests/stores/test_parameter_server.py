"""The parameter server without a cluster: what it does when it is started anew, call by call."""

import asyncio
import pickle

import cloudpickle
import numpy as np
import pytest
import torch

pytest.importorskip("ray")

from a3c.core.schedules import Budget, constant
from a3c.core.update_rule import UpdateRule
from a3c.errors import ClusterError, StoreError
from a3c.stores import parameter_server
from a3c.stores.keeper import Keeper
from a3c.stores.parameter_server import Contents, Numbers, ParameterServer, Push
from builders import make_rule

pytestmark = pytest.mark.timeout(30)


class Answer:
    """What a remote call gives, at the next turn."""

    def __init__(self, value):
        self.value = value

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return self.value


class Remote:
    def __init__(self, method):
        self.method = method

    def remote(self, *arguments):
        return Answer(self.method(*arguments))


class OneProcess:
    """As much of Ray as a server sees, in this process."""

    def __init__(self, keeper):
        self.killed = []
        self.use(keeper)

    def use(self, keeper):
        self.begin, self.keep = Remote(keeper.begin), Remote(keeper.keep)

    def get_actor(self, name):
        return self

    def get(self, answer):
        return answer.value

    def put(self, array):
        return array.copy()

    def kill(self, actor, *, no_restart):
        self.killed.append((actor, no_restart))


@pytest.fixture
def keeper_anew(monkeypatch):
    """Puts a keeper that knows nothing but what the server is made of in the place of the keeper."""

    def anew():
        ray = parameter_server.ray
        contents = ray.begin.method.__self__._contents
        ray.use(Keeper(contents, knows_all=False))

    return anew


@pytest.fixture
def server(monkeypatch):
    """Starts a server, and each time that it is called another one in its place."""

    def begin(reduction=None, workers=2):
        rule = UpdateRule(make_rule().optimizer, constant(0.1), Budget(None, None))
        keeper = Keeper(cloudpickle.dumps(Contents(2, "float32", rule, workers, reduction, 0)))
        assert keeper.begin() is None
        keeper.keep(-1, "initial", pickle.dumps(np.zeros(2, np.float32)))
        monkeypatch.setattr(parameter_server, "ray", OneProcess(keeper))
        monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
        return anew

    def anew():
        return ParameterServer("keeper")

    return begin


def push(server, steps=5, pushed_episodes=1):
    return Push(np.ones(2, np.float32), steps, 1, None, (server.incarnation, 0), pushed_episodes)


async def env_steps(server):
    return (await server.counters()).env_steps


def cut_at_the_next(server):
    server._next_keep = 0.0


def test_a_push_that_is_in_the_cut_is_not_counted_again(server):
    async def play():
        anew = server()
        one = anew()
        session, _ = await one.enter(0)
        await one.exchange(0, session, 1, push(one))
        cut_at_the_next(one)
        await one.exchange(0, session, 2, push(one))  # its answer is lost with the server: Ray tries again
        two = anew()
        assert await env_steps(two) == 10
        await two.exchange(0, session, 2, push(one))
        assert await env_steps(two) == 10
        await two.exchange(0, session, 3, push(two))
        assert await env_steps(two) == 15

    asyncio.run(play())


def test_a_worker_numbers_its_episodes_on_whatever_a_server_has_forgotten(server):
    async def play():
        anew = server()
        one = anew()
        session, _ = await one.enter(0)
        cut_at_the_next(one)
        await one.exchange(0, session, 1, push(one, pushed_episodes=1))
        await one.exchange(0, session, 2, push(one, pushed_episodes=2))  # is in no cut
        two = anew()
        assert (await two.state_dict())["worker_episodes"] == [1]
        assert await two.pushed_episodes(0) == 1
        await two.exchange(0, session, 3, push(two, pushed_episodes=3))
        state = await two.state_dict()
        assert state["episodes"] == 2
        assert (state["worker_episodes"], state["uncounted_episodes"]) == ([3], [[0, 2, 2]])
        await two.load_state_dict(state | {"worker_episodes": [7, 9], "uncounted_episodes": [[1, 3, 4]]})
        assert await two.pushed_episodes(1) == 9
        assert (await two.state_dict())["uncounted_episodes"] == [[1, 3, 4]]

    asyncio.run(play())


def test_numbers_that_are_counted_late_or_never():
    numbers = Numbers(0, ())
    assert (numbers := numbers.with_the_last(2, 2)) == Numbers(2, ())
    assert (numbers := numbers.with_the_last(0, 2)) == Numbers(2, ())
    assert (numbers := numbers.with_the_last(1, 6)) == Numbers(6, ((3, 5),))
    assert (numbers := numbers.with_the_last(1, 4)) == Numbers(6, ((3, 3), (5, 5)))
    assert (numbers := numbers.with_the_last(0, 8)) == Numbers(8, ((3, 3), (5, 5), (7, 8)))
    assert numbers.with_the_last(3, 9) == Numbers(9, ((3, 3), (5, 5)))
    assert numbers.with_the_last(9, 9) == Numbers(9, ())


def test_a_round_that_is_in_the_cut_is_not_counted_again(server):
    async def play():
        anew = server(reduction="mean")
        one = anew()
        sessions = [(await one.enter(worker))[0] for worker in range(2)]
        cut_at_the_next(one)
        await asyncio.gather(*(one.exchange(w, sessions[w], 1, push(one)) for w in range(2)))
        two = anew()
        assert await env_steps(two) == 10
        await asyncio.gather(*(two.exchange(w, sessions[w], 1, push(one)) for w in range(2)))
        assert await env_steps(two) == 10
        await asyncio.gather(*(two.exchange(w, sessions[w], 2, push(two)) for w in range(2)))
        assert (await two.counters())[:2] == (2, 20)

    asyncio.run(play())


def test_a_keeper_that_is_started_anew_learns_all_from_the_server(server, keeper_anew):
    async def play():
        anew = server()
        one = anew()
        session, _ = await one.enter(0)
        await one.exchange(0, session, 1, push(one))
        two = anew()
        assert two.incarnation == 1
        keeper_anew()
        with pytest.raises(ClusterError, match="the server and its keeper have been lost"):
            anew()
        cut_at_the_next(two)
        session, _ = await two.enter(0)
        await two.exchange(0, session, 1, push(two))
        three = anew()
        assert three.incarnation == 2
        assert await env_steps(three) == 5
        assert three._members == {0}

    asyncio.run(play())


def test_a_server_that_is_thought_dead_does_not_undo_what_its_successor_has_kept(server):
    async def play():
        anew = server()
        one = anew()
        session, _ = await one.enter(0)
        two = anew()
        cut_at_the_next(two)
        await two.exchange(0, session, 1, push(two))
        cut_at_the_next(one)
        await one.enter(1)
        await one.exchange(0, session, 1, push(one, steps=1000))
        three = anew()
        assert await env_steps(three) == 5
        assert three._members == {0}

    asyncio.run(play())


def test_a_push_that_comes_after_its_worker_was_counted_out_is_refused(server):
    async def play():
        one = server()()
        session, _ = await one.enter(0)
        await one.exchange(0, session, 1, push(one))
        await one.leave(0)
        with pytest.raises(StoreError, match="worker 0 has begun anew, or was counted out"):
            await one.exchange(0, session, 2, push(one))
        assert await env_steps(one) == 5
        session, _ = await one.enter(0)
        await one.exchange(0, session, 1, push(one))
        assert await env_steps(one) == 10

    asyncio.run(play())


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_two_pushes_under_way_count_once_each_in_whatever_order_they_are_tried_again(server, order):
    async def play():
        anew = server()
        one = anew()
        session, _ = await one.enter(0)
        two = anew()
        for sequence in (*order, *order):
            await asyncio.wait_for(two.exchange(0, session, sequence, push(one)), 1)
        assert await env_steps(two) == 10
        cut_at_the_next(two)
        await two.exchange(0, session, 3, push(two))
        await two.exchange(0, session, 1, push(one))  # too late for anything
        assert await env_steps(two) == 15
        three = anew()
        assert await env_steps(three) == 15

    asyncio.run(play())


@pytest.mark.parametrize("comes_after_all", [False, True])
def test_a_push_that_a_former_life_has_answered_is_not_waited_for(server, comes_after_all):
    async def play():
        anew = server()
        session, _ = await anew().enter(0)
        two = anew()
        await two.exchange(0, session, 2, push(two))  # it has overtaken the first, and its answer arrives
        three = anew()
        await three.exchange(0, session, 1, push(two))
        await asyncio.wait_for(three.exchange(0, session, 3, push(three)), 1)
        if comes_after_all:  # its answer did not arrive
            for _ in range(2):
                await three.exchange(0, session, 2, push(two))
        for sequence in (4, 5):
            await asyncio.wait_for(three.exchange(0, session, sequence, push(three)), 1)
        assert await env_steps(three) == 20 + 5 * comes_after_all
        seventh = asyncio.ensure_future(three.exchange(0, session, 7, push(three)))
        await asyncio.sleep(0.01)
        assert not seventh.done()  # of these, none is lost
        await three.exchange(0, session, 6, push(three))
        await asyncio.wait_for(seventh, 1)
        await asyncio.wait_for(three.leave(0, session, 7), 1)

    asyncio.run(play())


def test_who_leaves_does_not_wait_for_what_a_former_life_has_answered(server):
    async def play():
        anew = server()
        session, _ = await anew().enter(0)
        two = anew()
        await two.exchange(0, session, 2, push(two))
        three = anew()
        await three.exchange(0, session, 1, push(two))
        await asyncio.wait_for(three.leave(0, session, 2), 1)

    asyncio.run(play())


def test_in_a_round_who_leaves_waits_for_its_last_push(server):
    async def play():
        anew = server(reduction="mean")
        session, _ = await anew().enter(0)
        two = anew()
        await asyncio.wait_for(two.exchange(0, session, 1, push(two)), 1)
        leaves = asyncio.ensure_future(two.leave(0, session, 2))  # it has overtaken its last push
        await asyncio.sleep(0.01)
        assert not leaves.done()
        await two.exchange(0, session, 2, push(two))
        await asyncio.wait_for(leaves, 1)
        assert await env_steps(two) == 10

    asyncio.run(play())


def test_no_cut_is_kept_while_a_push_may_come_late(server):
    async def play():
        anew = server()
        one = anew()
        session, _ = await one.enter(0)
        two = anew()
        cut_at_the_next(two)
        await two.exchange(0, session, 2, push(one))  # the first one is still on its way
        three = anew()
        for sequence in (2, 1):
            await three.exchange(0, session, sequence, push(one))
        assert await env_steps(three) == 10

    asyncio.run(play())


def test_a_push_that_overtakes_another_waits_for_it(server):
    async def play():
        one = server()()
        session, _ = await one.enter(0)
        second = asyncio.ensure_future(one.exchange(0, session, 2, push(one, 7)))
        await asyncio.sleep(0.01)
        assert await env_steps(one) == 0
        await one.exchange(0, session, 1, push(one, 5))
        await asyncio.wait_for(second, 1)
        assert await env_steps(one) == 12

    asyncio.run(play())


def test_who_is_counted_out_while_it_waits_to_begin_is_not_counted_in(server):
    async def play():
        one = server(reduction="mean")()
        sessions = [(await one.enter(worker))[0] for worker in range(2)]
        first = asyncio.ensure_future(one.exchange(1, sessions[1], 1, push(one)))
        await asyncio.sleep(0.01)
        await one.leave(1)  # its process has died
        anew = asyncio.ensure_future(one.enter(1))  # its next life waits for the round that its gradient is in
        await asyncio.sleep(0.01)
        await one.leave(1)  # and dies, too
        await asyncio.wait_for(one.exchange(0, sessions[0], 1, push(one)), 1)
        await asyncio.wait_for(asyncio.gather(first, anew), 1)
        await asyncio.wait_for(one.exchange(0, sessions[0], 2, push(one)), 1)  # waits for nobody
        assert (await one.counters())[:2] == (2, 15)

    asyncio.run(play())


def test_a_life_that_began_after_the_cut_is_known_as_the_latest(server):
    async def play():
        anew = server()
        one = anew()
        former, _ = await one.enter(0)
        await one.exchange(0, former, 1, push(one))
        cut_at_the_next(one)
        await one.exchange(0, former, 2, push(one))
        latest, _ = await one.enter(0)
        for number in range(1, 6):
            await one.exchange(0, latest, number, push(one))
        two = anew()
        with pytest.raises(StoreError, match="not its latest life"):
            await two.exchange(0, former, 3, push(one))
        await asyncio.wait_for(two.exchange(0, latest, 6, push(one)), 1)
        assert await env_steps(two) == 15

    asyncio.run(play())


def test_who_leaves_keeps_nobody_from_keeping_a_cut(server):
    async def play():
        anew = server()
        one = anew()
        sessions = [(await one.enter(worker))[0] for worker in range(2)]
        await one.exchange(0, sessions[0], 1, push(one))
        two = anew()
        await two.exchange(0, sessions[0], 3, push(two))  # the one before may still come
        await two.leave(0, sessions[0], 3)
        cut_at_the_next(two)
        await two.exchange(1, sessions[1], 1, push(two))
        assert await env_steps(anew()) == 10

    asyncio.run(play())


def test_a_keeper_that_hangs_is_killed_and_sent_no_more_cuts(server, monkeypatch):
    told = []

    class Silence:
        """What a call of one that hangs gives."""

        def remote(self, incarnation, name, what):
            told.append(name)
            return self

        def __await__(self):
            yield from heard.wait().__await__()

    async def play():
        anew = server()
        one, ray = anew(), parameter_server.ray
        session, _ = await one.enter(0)
        answers, ray.keep = ray.keep, Silence()
        monkeypatch.setattr(parameter_server, "_KEEPER_S", 0.05)
        for number in (1, 2, 3):
            cut_at_the_next(one)
            await one.exchange(0, session, number, push(one))
        assert told == ["standing", "cut"]
        joining = asyncio.ensure_future(one.join(1))  # waits until the keeper knows
        while not ray.killed:
            await asyncio.sleep(0.01)
        assert ray.killed[0] == (ray, False)  # Ray starts it anew, and tries the calls again
        assert not joining.done()
        heard.set()
        await asyncio.wait_for(joining, 1)
        ray.keep = answers
        await one.exchange(0, session, 4, push(one))
        assert await env_steps(anew()) == 20
        killed = len(ray.killed)
        await asyncio.sleep(0.2)
        assert len(ray.killed) == killed  # nobody waits for it any more

    heard = asyncio.Event()
    asyncio.run(play())
