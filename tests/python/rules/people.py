"""R65 to R67: presence and typing."""

from chat.page import ERRORS
from rules.case import rule
from rules.sending import with_group

OFFLINE, ONLINE = 0, 1


async def presence(session, user, state):
    """Waits until the session is told that this user is in this state."""

    def told(frame):
        found = frame.HasField("presence") and frame.presence.user == user
        return found and frame.presence.state == state and frame.presence

    return await session.wait(told, f"presence {state} of {user}")


@rule("R65")
async def presence_is_shown_only_of_those_who_have_written_to_one(world):
    group, alice, bob, carol = await with_group(world, "bob", "carol")
    # Bob has written to alice; carol only into a group with her; alice to carol.
    await bob.send(alice.name, "hi")
    await carol.send({"group": group}, "hi all")
    await alice.send(carol.name, "hi")
    await alice.events(3)
    subscription = {"users": [carol.user, carol.user ^ 2, bob.user]}
    await alice.request(presenceSubscribe=subscription)
    await presence(alice, bob.user, ONLINE)
    # Carol comes and goes; then bob does, which is told after it.
    await carol.close()
    carol = await world.session("carol")
    await carol.ping()
    await bob.close()
    assert (await presence(alice, bob.user, OFFLINE)).lastSeenMs
    told = {one.user for one in alice.now_here("presence")}
    assert told <= {bob.user}, "a stranger's presence was shown"
    # Once she has written, she is shown.
    await carol.send(alice.name, "now to you")
    await alice.request(presenceSubscribe=subscription)
    await presence(alice, carol.user, ONLINE)


@rule("R66")
async def a_subscription_replaces_the_one_before(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    carol = await world.session("carol")
    for other in (bob, carol):
        await other.send(alice.name, "hi")
        await alice.event()
    await alice.request(presenceSubscribe={"users": [bob.user]})
    await presence(alice, bob.user, ONLINE)
    await alice.request(presenceSubscribe={"users": [carol.user]})
    await presence(alice, carol.user, ONLINE)
    alice.now_here("presence")
    await bob.close()
    await carol.close()
    await presence(alice, carol.user, OFFLINE)
    assert bob.user not in {one.user for one in alice.now_here("presence")}
    bob = await world.session("bob")
    await alice.request(presenceSubscribe={"users": []})
    await alice.request(presenceSubscribe={"users": [bob.user]})
    await presence(alice, bob.user, ONLINE)


@rule("R66")
async def so_many_are_subscribed_to_and_no_more(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    await bob.send(alice.name, "hi")
    limit = alice.welcome.limits.presenceSubscriptions
    users = [bob.user ^ (2 * at) for at in range(limit + 1)]
    await alice.request(presenceSubscribe={"users": users[:limit]})
    await presence(alice, bob.user, ONLINE)
    assert await alice.refusal(presenceSubscribe={"users": users}) == "LIMIT_EXCEEDED"
    # What was refused has replaced nothing.
    await bob.close()
    await presence(alice, bob.user, OFFLINE)


@rule("R67")
async def typing_reaches_the_peer_and_is_neither_answered_nor_stored(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    carol = await world.session("carol")
    await alice.send(bob.name, "hi")
    await bob.send(alice.name, "hi")
    await bob.events(2)
    for on in (True, False):
        await alice.tell(typing={"conversation": bob.user, "on": on})
        typing = await bob.next("typing")
        assert (typing.conversation, typing.user, typing.on) == (alice.user, alice.user, on)
    # Nobody else hears of it, and no inbox has it.
    await carol.ping()
    assert not carol.now_here("typing") and not carol.now_here("event")
    await alice.ping()
    assert not alice.now_here("typing") and not alice.now_here("error")
    bob = await world.again(bob)
    assert await bob.placed() == 2 == bob.welcome.inboxHead
    await bob.ping()
    assert not bob.now_here("typing")


@rule("R67")
async def typing_in_a_group_reaches_the_other_members_only(world):
    group, alice, bob, carol = await with_group(world, "bob", "carol")
    await carol.request(groupLeave={"opId": carol.new_id(), "group": group})
    for session in (alice, bob):
        await session.event()
    await carol.tell(typing={"conversation": group, "on": True})
    await alice.tell(typing={"conversation": group, "on": True})
    typing = await bob.next("typing")
    assert (typing.conversation, typing.user, typing.on) == (group, alice.user, True)
    for session in (alice, carol):
        await session.ping()
        assert not session.now_here("typing")
    errors = [error.code for error in carol.now_here("error")]
    assert set(errors) <= {ERRORS["NOT_MEMBER"][0]}
