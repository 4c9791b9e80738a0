"""What the tests of Kata's agent pin (its behaviour, 8.5): where each is held here, or why it is not.

The rows are in the list's order. A row may name several tests; each must exist.
"""

from __future__ import annotations

import pytest

from kata_testing.rows import check_place

HELD: dict[str, tuple[str, ...]] = {
    "words of the configuration": (
        "tests/unit/test_agent_config.py::test_kernel_word_sets_its_field_without_complaint",
        "tests/unit/test_agent_config.py::test_environment_wins_and_takes_any_address",
    ),
    "masks of signals": (
        "tests/unit/test_processes_signals.py::test_a_mask_of_any_kind_means_handled",
        "tests/unit/test_processes_signals.py::test_a_mask_that_says_nothing_means_not_handled",
        "tests/unit/test_processes_signals.py::test_numbers_out_of_range_are_not_handled",
    ),
    "size of memory blocks": (
        "tests/unit/test_agent_guest.py::test_block_size_is_hexadecimal",
        "tests/unit/test_agent_guest.py::test_block_size_that_is_none_is_an_error",
        "tests/unit/test_agent_guest.py::test_details_are_read_only_when_asked_for",
    ),
    "namespaces of a spec": (
        "tests/unit/test_containers_spec.py::test_ipc_and_uts_are_the_sandboxes_whatever_the_host_says",
        "tests/unit/test_containers_spec.py::test_a_shared_pid_namespace_is_joined",
        "tests/unit/test_containers_spec.py::test_of_two_pid_entries_the_first_decides",
    ),
    "writing to standard input": (
        "tests/unit/test_processes_stdio.py::test_a_write_is_whole_before_it_returns_and_writers_take_turns",
        "tests/unit/test_processes_stdio.py::test_a_write_nobody_will_read_says_so",
        "tests/unit/test_processes_stdio.py::test_empty_data_ends_the_input_and_later_writes_are_refused",
        "tests/root/test_containers_lifecycle.py::test_an_unknown_container_is_named",
    ),
    "finding a process": (
        "tests/unit/test_containers_container.py::test_init_answers_to_no_exec_id_and_to_the_containers",
        "tests/root/test_containers_lifecycle.py::test_an_unknown_process_is_named",
    ),
    "references to storages": (
        "tests/root/test_agent_storages.py::test_storage_is_mounted_once_and_unmounted_after_its_last_user",
        "tests/root/test_agent_storages.py::test_release_of_what_one_does_not_use_changes_nothing",
    ),
    "hooks of the guest": (
        "tests/unit/test_agent_guest.py::test_hooks_are_the_programs_in_the_folders_that_exist",
        "tests/unit/test_agent_guest.py::test_hook_folder_that_is_not_there_has_none",
    ),
    "pause and resume in the wrong state": (
        "tests/root/test_cgroups_life.py::test_wrong_states_are_refused_with_the_texts_that_hosts_know",
    ),
    "lines of mountinfo; paths of mounts, masks and devices": (
        "tests/unit/test_linux_files.py::test_a_mount_point_that_is_a_dash_does_not_end_the_optional_fields",
        "tests/unit/test_containers_spec.py::test_a_contradiction_is_refused_by_name",
        "tests/unit/test_containers_spec.py::test_odd_device_paths_below_dev_are_fine",
        "tests/unit/test_containers_spec.py::test_some_files_of_proc_may_be_bound",
    ),
    "root, masked paths, user mappings, sysctls": (
        "tests/root/test_containers_lifecycle.py::test_a_root_behind_a_link_is_refused",
        "tests/root/test_containers_lifecycle.py::test_a_bad_request_is_refused_by_name",
        "tests/unit/test_containers_spec.py::test_a_contradiction_is_refused_by_name",
        "tests/root/test_containers_spec.py::test_what_nobody_can_do_is_refused_by_name",
    ),
    "seccomp: unknown calls, arguments, errno": (
        "tests/root/test_containers_spec.py::test_seccomp_refuses_with_the_errno_that_was_asked_for_and_knows_arguments",
    ),
    "spellings of capabilities": (
        "tests/unit/test_agent_oci.py::test_capability_is_known_in_every_spelling_of_the_wire",
        "tests/unit/test_agent_oci.py::test_word_outside_the_specification_is_refused_by_name",
    ),
    "the name server file": (
        "tests/unit/test_agent_guest.py::test_name_servers_are_trimmed_and_joined_without_a_final_newline",
    ),
    "modules without a name": (
        "tests/unit/test_agent_guest.py::test_module_without_a_name_is_refused_before_anything_is_done",
    ),
    "reseeding without data": ("tests/unit/test_agent_guest.py::test_reseed_without_data_is_refused",),
    "CPUs and memory to be brought online": (
        "tests/unit/test_devices_online.py::test_only_processors_whose_file_says_0_are_brought_up_and_no_more_than_asked_for",
        "tests/unit/test_agent_guest.py::test_block_size_is_hexadecimal",
    ),
    "notations of cgroup paths": (
        "tests/root/test_containers_spec.py::test_the_cgroup_is_where_either_notation_says",
        "tests/unit/test_cgroups_plan.py::test_lists_of_cpus",
    ),
}
# Different on purpose, or not there yet.
NOT_HELD = {
    "a start without a process configuration fails": "an absent process is the default one, as on the wire",
    "device lists and subsystems of cgroup v1": "the guest has version 2 only; rules are crun's eBPF program",
    "units of systemd": "the guest has no systemd: the three parts of the notation are folders",
    "shape of SELinux labels": "refused altogether while the guest's kernel runs without SELinux",
    "sealed secrets, initdata": "with confidential guests",
    "empty UpdateInterface, UpdateRoutes, AddARPNeighbors; iptables": "with the network",
}


@pytest.mark.parametrize("row", HELD)
def test_the_tests_that_hold_a_pinned_behaviour_exist(row: str) -> None:
    for place in HELD[row]:
        check_place(place)


@pytest.mark.parametrize("row", NOT_HELD)
def test_what_is_not_held_has_its_reason(row: str) -> None:
    assert NOT_HELD[row]
    assert row not in HELD
