"""R58 to R64: groups, who is in them, and what each may do."""

from chat.page import ADMIN, MEMBER, OWNER, Kind
from chat.session import new_device
from rules.case import JSON, rule
from rules.sending import with_group

CREATED, ADDED, REMOVED, LEFT, RENAMED, ROLE = (
    Kind.Value(f"KIND_{kind}")
    for kind in ("CREATED", "ADDED", "REMOVED", "LEFT", "RENAMED", "ROLE")
)


async def change(session, kind, group, **fields):
    """A change of a group with a new opId."""
    return await session.request(**{kind: {"opId": session.new_id(), "group": group, **fields}})


async def refused(session, kind, group, **fields):
    return await session.refusal(**{kind: {"opId": session.new_id(), "group": group, **fields}})


async def seen(session, kind):
    """The next event of a session: a change of this kind, and whom it names."""
    event = await session.event()
    assert event.groupChange.kind == kind, event
    return event, [(one.user, one.name, one.role) for one in event.groupChange.members]


async def members_of(session, group, limit=0):
    found, cursor = {}, b""
    while True:
        page = await session.request(members={"group": group, "cursor": cursor, "limit": limit})
        assert page.group == group
        found |= {member.user: (member.name, member.role) for member in page.members}
        if not page.more:
            return found
        cursor = page.next


@rule("R58")
async def a_repeated_creation_is_the_same_group(world):
    alice = await world.session("alice")
    bob = await world.session("bob")
    creation = {"opId": alice.new_id(), "name": "party", "members": [bob.name, alice.name]}
    first = await alice.request(groupCreate=creation)
    assert (first.members, first.myRole, first.name) == (2, OWNER, "party")
    assert first.msgId and not first.duplicate
    alice = await world.again(alice)
    second = await alice.request(groupCreate=creation)
    assert second.duplicate and second.group == first.group and second.msgId == first.msgId
    event, named = await seen(bob, CREATED)
    assert event.conversation == first.group and event.groupChange.name == "party"
    assert named == [(alice.user, alice.name, OWNER), (bob.user, bob.name, MEMBER)]
    # The same opId of another creator is another group.
    other = await bob.request(groupCreate=creation)
    assert other.group != first.group
    assert await members_of(alice, first.group) == {
        alice.user: (alice.name, OWNER),
        bob.user: (bob.name, MEMBER),
    }
    assert await alice.refusal(groupCreate={**creation, "name": "other"}) == "CONFLICT"


@rule("R58")
async def a_group_of_newcomers_is_there_when_they_come(world):
    alice = await world.session("alice")
    names = [world.name(f"new{at}") for at in range(10)]
    creation = {"opId": alice.new_id(), "name": "x" * 128, "members": names}
    for name in ("", "x" * 129, "a\nb"):
        assert await alice.refusal(groupCreate={**creation, "name": name}) == "INVALID_ARGUMENT"
    state = await alice.request(groupCreate=creation)
    assert state.members == 11
    late = await world.session("new3", resume={"inboxSeq": 0})
    event, named = await seen(late, CREATED)
    assert event.msgId == state.msgId
    assert {name for _, name, _ in named} == {alice.name, *names}
    assert len(await members_of(late, state.group, limit=3)) == 11


@rule("R59")
async def a_change_is_repeated_like_a_send_and_names_everybody(world):
    group, alice, bob = await with_group(world, "bob")
    carol = await world.session("carol")
    add = {"opId": alice.new_id(), "group": group, "members": [carol.name]}
    first = await alice.request(groupAdd=add)
    assert first.members == 3 and first.msgId
    again = await alice.request(groupAdd=add)
    assert again.duplicate and again.msgId == first.msgId
    assert await alice.refusal(groupAdd={**add, "members": [bob.name]}) == "CONFLICT"
    for session in (alice, bob, carol):
        event, named = await seen(session, ADDED)
        assert event.msgId == first.msgId
        assert named == [(carol.user, carol.name, MEMBER)]
    renamed = await change(alice, "groupUpdate", group, name="new name")
    assert renamed.name == "new name"
    promoted = await change(alice, "groupRole", group, member=bob.user, role=ADMIN)
    removed = await change(alice, "groupRemove", group, members=[carol.user])
    left = await change(bob, "groupLeave", group)
    expected = [
        (RENAMED, renamed.msgId, []),
        (ROLE, promoted.msgId, [(bob.user, bob.name, ADMIN)]),
        (REMOVED, removed.msgId, [(carol.user, carol.name)]),
        (LEFT, left.msgId, [(bob.user, bob.name)]),
    ]
    for session, count in ((alice, 4), (bob, 4), (carol, 3)):
        for kind, number, whom in expected[:count]:
            event, named = await seen(session, kind)
            assert event.msgId == number, (kind, event)
            if kind == RENAMED:
                assert event.groupChange.name == "new name"
            elif kind == ROLE:
                assert named == whom
            else:
                assert [one[:2] for one in named] == whom, (kind, named)


@rule("R59", "R64")
async def an_addition_names_only_those_who_were_no_members(world):
    group, alice, bob = await with_group(world, "bob")
    carol = await world.session("carol")
    await change(alice, "groupRole", group, member=bob.user, role=ADMIN)
    await seen(bob, ROLE)
    state = await change(alice, "groupAdd", group, members=[bob.name, carol.name, carol.name])
    assert state.members == 3
    for session in (bob, carol):
        _, named = await seen(session, ADDED)
        assert named == [(carol.user, carol.name, MEMBER)]
    assert (await members_of(alice, group))[bob.user] == (bob.name, ADMIN)


@rule("R60")
async def roles_decide_who_may_do_what(world):
    group, owner, admin, member, other = await with_group(world, "admin", "member", "other")
    await change(owner, "groupRole", group, member=admin.user, role=ADMIN)
    newcomer = world.name("newcomer")
    # A member does nothing but write, read and leave.
    assert await refused(member, "groupUpdate", group, name="x") == "NOT_ALLOWED"
    assert await refused(member, "groupAdd", group, members=[newcomer]) == "NOT_ALLOWED"
    assert await refused(member, "groupRemove", group, members=[other.user]) == "NOT_ALLOWED"
    role = {"member": other.user, "role": ADMIN}
    assert await refused(member, "groupRole", group, **role) == "NOT_ALLOWED"
    # An admin renames, adds, removes members; but neither admins nor owners, and gives no role.
    assert (await change(admin, "groupUpdate", group, name="by the admin")).msgId
    assert (await change(admin, "groupAdd", group, members=[newcomer])).members == 5
    assert await refused(admin, "groupRemove", group, members=[owner.user]) == "NOT_ALLOWED"
    assert await refused(admin, "groupRole", group, **role) == "NOT_ALLOWED"
    assert (await change(admin, "groupRemove", group, members=[other.user])).members == 4
    # An owner does all of it.
    second = await change(owner, "groupRole", group, member=member.user, role=ADMIN)
    assert second.msgId
    assert await refused(admin, "groupRemove", group, members=[member.user]) == "NOT_ALLOWED"
    assert (await change(owner, "groupRemove", group, members=[member.user])).members == 3
    # Nobody removes oneself.
    for session in (owner, admin):
        wrong = await refused(session, "groupRemove", group, members=[session.user])
        assert wrong in ("NOT_ALLOWED", "INVALID_ARGUMENT"), wrong
    # JSON writes roles by their names, of which there is no fourth.
    for role in (0,) if world.carrier == JSON else (0, 4, 1_000_000):
        wrong = await refused(owner, "groupRole", group, member=admin.user, role=role)
        assert wrong == "INVALID_ARGUMENT"


@rule("R61")
async def a_message_reaches_the_members_at_its_commit_and_nobody_else(world):
    group, alice, bob, carol = await with_group(world, "bob", "carol")
    first = await alice.send({"group": group}, "to all")
    removal = await change(alice, "groupRemove", group, members=[carol.user])
    second = await alice.send({"group": group}, "without carol")
    dave = await world.session("dave")
    addition = await change(alice, "groupAdd", group, members=[dave.name])
    third = await bob.send({"group": group}, "with dave")
    direct = await alice.send(carol.name, "direct")
    numbers = [event.msgId for event in await carol.events(3)]
    # The message after hers would have come before this one.
    assert numbers == [first.msgId, removal.msgId, direct.msgId]
    assert [event.msgId for event in await dave.events(2)] == [addition.msgId, third.msgId]
    expected = [first.msgId, removal.msgId, second.msgId, addition.msgId, third.msgId]
    assert [event.msgId for event in await bob.events(5)] == expected
    # Nor does history show more.
    for session, count in ((carol, 3), (dave, 2)):
        page = await session.request(history={"conversation": group, "before": 0})
        assert len(page.events) == count, page


@rule("R61")
async def who_leaves_sees_that_and_nothing_after_it_and_may_come_back(world):
    group, alice, bob = await with_group(world, "bob")
    left = await change(bob, "groupLeave", group)
    unseen = await alice.send({"group": group}, "bob is away")
    back = await change(alice, "groupAdd", group, members=[bob.name])
    welcome = await alice.send({"group": group}, "welcome back")
    numbers = [event.msgId for event in await bob.events(3)]
    assert numbers == [left.msgId, back.msgId, welcome.msgId] and unseen.msgId not in numbers
    tablet = await world.session("bob", device=new_device(), resume={"inboxSeq": 0})
    page = await tablet.request(history={"conversation": group, "before": 0})
    assert unseen.msgId not in [event.msgId for event in page.events]


@rule("R62")
async def strangers_are_not_members_and_what_does_not_exist_is_not_found(world):
    group, alice, bob = await with_group(world, "bob")
    carol = await world.session("carol")
    await change(bob, "groupLeave", group)
    for session in (carol, bob):
        for body in every_request(session, group, alice.user):
            assert await session.refusal(**body) == "NOT_MEMBER", body
    for missing in (group ^ 2, alice.user):
        for body in every_request(alice, missing, bob.user):
            assert await alice.refusal(**body) == "NOT_FOUND", (missing, body)


def every_request(session, group, somebody):
    """Whatever names a group."""
    op = {"opId": session.new_id(), "group": group}
    return [
        {"groupGet": {"group": group}},
        {"members": {"group": group}},
        {"marks": {"group": group}},
        {"send": session.message({"group": group}, "x")},
        {"groupUpdate": {**op, "opId": session.new_id(), "name": "x"}},
        {"groupAdd": {**op, "opId": session.new_id(), "members": [session.name]}},
        {"groupRemove": {**op, "opId": session.new_id(), "members": [somebody]}},
        {"groupRole": {**op, "opId": session.new_id(), "member": somebody, "role": ADMIN}},
        {"groupLeave": {**op, "opId": session.new_id()}},
    ]


@rule("R62")
async def whom_a_change_names_must_be_a_member(world):
    group, alice, bob = await with_group(world, "bob")
    carol = await world.session("carol")
    for user in (carol.user, carol.user ^ 2):
        wrong = await refused(alice, "groupRole", group, member=user, role=ADMIN)
        assert wrong == "NOT_FOUND", wrong
    assert (await bob.request(groupGet={"group": group})).members == 2


@rule("R63")
async def the_last_owner_stays_while_others_remain(world):
    group, alice, bob = await with_group(world, "bob")
    assert await refused(alice, "groupLeave", group) == "LAST_OWNER"
    assert await refused(alice, "groupRole", group, member=alice.user, role=MEMBER) == "LAST_OWNER"
    await change(alice, "groupRole", group, member=bob.user, role=OWNER)
    await change(alice, "groupRole", group, member=alice.user, role=MEMBER)
    assert await refused(bob, "groupLeave", group) == "LAST_OWNER"
    await change(alice, "groupLeave", group)
    # Alone, the last owner may go.
    assert (await change(bob, "groupLeave", group)).msgId


@rule("R64")
async def a_group_has_so_many_members_and_no_more(world):
    await world.use(cluster__group_members=4)
    alice = await world.session("alice")
    names = [world.name(f"n{at}") for at in range(4)]
    assert alice.welcome.limits.groupMembers == 4
    creation = {"opId": alice.new_id(), "name": "g"}
    assert await alice.refusal(groupCreate={**creation, "members": names}) == "LIMIT_EXCEEDED"
    creation = {"opId": alice.new_id(), "name": "g", "members": [*names[:3], alice.name]}
    state = await alice.request(groupCreate=creation)
    assert state.members == 4
    assert await refused(alice, "groupAdd", state.group, members=names[3:]) == "LIMIT_EXCEEDED"
    # Who is in already does not count again.
    assert (await change(alice, "groupAdd", state.group, members=names[:3])).msgId == 0
    members = await members_of(alice, state.group)
    (gone,) = [user for user, (name, _) in members.items() if name == names[0]]
    await change(alice, "groupRemove", state.group, members=[gone])
    assert (await change(alice, "groupAdd", state.group, members=names[3:])).members == 4


@rule("R64")
async def what_changes_nothing_makes_no_event(world):
    group, alice, bob = await with_group(world, "bob")
    assert (await change(alice, "groupAdd", group, members=[bob.name])).msgId == 0
    same = await change(alice, "groupRole", group, member=bob.user, role=MEMBER)
    assert same.msgId == 0
    sent = await alice.send({"group": group}, "next")
    assert (await bob.event()).msgId == sent.msgId
