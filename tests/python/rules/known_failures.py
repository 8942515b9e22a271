"""Cases that fail because the server does not do yet what the page says.

Each names its rule and what happens. They are counted as skipped; one that passes fails the
test, so that this list only ever becomes shorter.
"""

KNOWN_FAILURES = {
    "whatever_protobufs_mapping_allows_is_read": "R11: null and 5.0 are MALFORMED",
    "what_asks_needs_a_number": "R12: PING without a number is answered",
    "a_device_that_the_server_does_not_know_gets_what_is_still_kept": "R22: it is told GAP",
    "the_same_id_to_another_target_is_a_conflict": "R34: it is stored again",
    "a_final_error_stops_nothing_behind_it": "R37: what is behind it is OUT_OF_ORDER",
    "so_many_groups_are_followed_and_one_that_was_released_makes_room": "R54: it makes none",
    "unread_counts_messages_of_others_and_nothing_else": "R57: it counts changes",
    "an_addition_names_only_those_who_were_no_members": "R59, R64: it names an admin as member",
    "strangers_are_not_members_and_what_does_not_exist_is_not_found": "R62: a user's id is 400",
}
