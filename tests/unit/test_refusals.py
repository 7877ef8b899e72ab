"""What must be refused, and the tests that show it: a table that cannot name a test that is not there."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
REFUSALS: dict[str, dict[str, tuple[str, ...]]] = {
    "pickle and torch.load anywhere": {
        "unit/backend/test_no_pickle.py": (
            "no_product_source_unpickles_or_evaluates",
            "the_scan_sees_each_of_them",
        ),
        "unit/backend/test_readers.py": ("pickled_arrays_are_refused_and_nothing_is_left",),
        "unit/backend/test_inspection.py": ("a_pickle_is_named_and_not_read",),
    },
    ".cyxmodel: zip slip, bombs, links": {
        "unit/backend/test_cyxmodel.py": (
            "a_name_that_is_not_of_the_format_is_refused",
            "a_link_is_refused",
            "a_compressed_bomb_is_refused_before_it_unfolds",
            "too_many_members_are_refused",
            "a_member_over_its_limit_is_refused",
            "overlapping_members_are_refused",
            "bytes_before_between_and_after_members_are_refused",
            "weights_whose_header_lies_are_refused",
        ),
    },
    "ONNX: data in other files, custom domains, operator libraries": {
        "unit/backend/test_model_headers.py": (
            "a_hostile_onnx_is_refused",
            "every_cut_of_an_onnx_is_refused",
        ),
        "unit/backend/test_runtimes.py": ("what_could_reach_beyond_its_file_never_gets_to_onnxruntime",),
        "unit/backend/test_importing.py": ("a_hostile_onnx_is_refused_before_it_is_parsed",),
        "unit/backend/test_onnx_operators.py": ("parameters_that_are_none_are_refused",),
    },
    "ONNX: 73 bytes that ask for 10^11 floats, loops without end": {
        "e2e/serving/test_serve.py": (
            "a_loop_without_end_is_stopped_at_its_deadline_and_the_model_goes_on",
            "a_model_that_allocates_without_end_is_refused_and_goes_on",
        ),
        "unit/backend/test_runtimes.py": ("a_run_stops_at_its_deadline",),
        "unit/backend/test_onnx_operators.py": ("a_constant_of_too_many_numbers_is_never_made",),
    },
    "ONNX Runtime: telemetry": {
        "unit/backend/test_no_telemetry.py": ("telemetry_is_off_before_the_first_import",),
        "e2e/backend/test_telemetry_off.py": (
            "onnxruntime_would_leave_a_device_id",
            "nothing_is_left_where_we_load_it",
        ),
    },
    "GGUF: headers that lie, the 49 bytes that gguf's reader never returns from": {
        "unit/backend/test_model_headers.py": (
            "a_hostile_gguf_is_refused",
            "every_cut_of_a_gguf_is_refused",
            "49_bytes_that_never_end_are_refused_at_once",
        ),
        "unit/backend/test_runtimes.py": ("a_lying_gguf_never_gets_to_llama_cpp",),
    },
    "data files: bombs, programs in images": {
        "unit/backend/test_readers.py": (
            "a_dictionary_that_unfolds_to_gigabytes_of_text_is_refused",
            "an_image_that_claims_a_billion_pixels_is_refused",
            "a_program_for_a_printer_is_no_image_whatever_its_name",
        ),
    },
    "every header parser, fed with damage": {
        "property/backend/test_format_fuzz.py": (
            "damaged_files_break_no_reader",
            "the_corpus_is_judged_as_it_is_named",
        ),
    },
    "every endpoint of a model server, fed with damage": {
        "property/backend/test_endpoint_fuzz.py": (
            "damaged_requests_break_no_endpoint",
            "the_corpus_is_answered_as_it_is_named",
        ),
    },
    "chat templates that loop, count, grow or nest without end": {
        "e2e/backend/test_renderer.py": (
            "a_hostile_template_is_refused_and_others_go_on",
            "a_template_that_ends_with_every_conversation_is_soon_tried_no_more",
            "a_conversation_that_a_template_cannot_bear_is_refused_and_shorter_ones_go_on",
        ),
        "e2e/serving/test_text_models.py": ("a_template_without_end_stops_nobody_but_its_own_model",),
    },
    "JWT: other algorithms, other connections, long lives, what was taken back": {
        "unit/p2p/test_auth.py": (
            "algorithm_none_is_refused",
            "hs256_with_the_public_key_as_secret_is_refused",
            "every_other_algorithm_is_refused",
            "a_stolen_token_is_useless_on_another_connection",
            "a_token_for_another_peer_is_refused",
            "a_token_that_lives_too_long_is_neither_issued_nor_accepted",
            "a_revoked_token_is_refused_by_its_name",
        ),
    },
    "libp2p: floods, lengths without end, forged records": {
        "unit/p2p/test_host_limits.py": (
            "a_storm_of_short_connections_is_shut_out",
            "streams_are_counted_over_all_connections_of_a_peer",
            "unread_bytes_are_counted_over_all_connections_of_a_peer",
            "a_message_over_the_programs_limit_costs_its_stream",
        ),
        "simulation/coordinator/test_coordinator.py": (
            "peers_with_records_as_long_as_they_may_be_hide_nobody",
            "one_caller_cannot_take_every_place_where_graphs_wait",
        ),
        "unit/p2p/test_yamux_core.py": ("memory_is_bounded_by_the_limits_whatever_comes",),
        "unit/p2p/test_records.py": (
            "a_record_signed_by_another_peer_is_refused",
            "a_record_changed_after_signing_is_refused",
        ),
        "property/p2p/test_wire_fuzz.py": ("hostile_rounds_break_nothing",),
    },
    "keys: files that others can read, guessable secrets": {
        "unit/p2p/test_identity.py": (
            "a_key_file_that_others_can_read_is_refused",
            "a_damaged_or_guessable_key_file_is_refused_and_kept",
        ),
        "unit/p2p/chain/test_wallet.py": (
            "what_is_not_a_wallet_is_refused",
            "an_empty_passphrase_is_refused",
        ),
    },
    "HTTP: other names, other sites, no key, large bodies, slow clients": {
        "unit/backend/serving/test_admission.py": (
            "a_rebound_name_is_refused",
            "a_page_of_another_site_is_refused",
            "a_wrong_key_is_refused",
        ),
        "unit/backend/serving/test_app.py": (
            "a_body_above_the_limit_is_refused_whatever_it_declares",
            "no_answer_invites_other_sites",
            "what_fails_inside_is_told_to_nobody_outside",
        ),
        "unit/backend/serving/test_seats.py": (
            "an_address_beyond_this_machine_holds_a_quarter_at_most",
            "who_waited_longest_for_its_client_makes_room",
        ),
        "unit/backend/serving/test_slow_clients.py": (
            "a_body_that_never_begins_is_given_up",
            "whoever_only_sits_there_keeps_nobody_out",
        ),
        "e2e/serving/test_serve.py": ("beyond_loopback_only_with_a_key_which_can_be_taken_back",),
    },
    "Sybil: peers that have proven nothing, reputation that one pays oneself": {
        "unit/coordinator/test_matcher.py": (
            "a_large_job_goes_to_a_peer_that_has_proven_something",
            "paying_oneself_next_to_nothing_makes_no_reputation",
        ),
    },
    "control codes of strangers on a terminal": {
        "unit/p2p/test_logs.py": ("what_a_stranger_wrote_moves_no_terminal",),
        "unit/coordinator/test_show.py": ("what_peers_call_themselves_moves_no_terminal",),
        "unit/peer/test_cli.py": ("what_others_wrote_moves_no_terminal",),
    },
    "prompts and bodies in logs": {
        "e2e/serving/test_serve.py": ("what_was_asked_is_in_no_log",),
    },
}
"""By what is refused and the file of the tests: their names, without ``test_``."""


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text())
    return frozenset(
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


@pytest.mark.parametrize("row", REFUSALS)
def test_each_refusal_has_its_tests(row: str) -> None:
    named = [(file, f"test_{name}") for file, names in REFUSALS[row].items() for name in names]
    assert not [f"{file}::{name}" for file, name in named if name not in names_in(file)]
