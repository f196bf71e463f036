"""CLNP's settings: what they do, what is refused of them, and when."""

import pytest
import torch

from clbench.errors import ClbenchError, MethodError, SettingError
from clbench.methods.table import resolve_settings
from clbench.strategies import CLNPPlugin
from clbench.strategies.clnp.settings import CLNPOptions, misfit
from clbench.suites.files import SUITES


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"margin": -1.0}, r"CLNPPlugin\.margin.*greater than or equal to 0"),
        ({"thresholds": "each"}, r"CLNPPlugin\.thresholds.*'per-layer' or 'global'"),
        ({"output_weights": "own"}, r"CLNPPlugin\.output_weights.*'shared' or 'per-task'"),
        ({"rank": "size"}, r"CLNPPlugin\.rank.*'activity' or 'contribution'"),
        ({"batch_norm": "own"}, r"CLNPPlugin\.batch_norm.*'frozen' or 'per-task'"),
        ({"l1_weights": 2}, r"CLNPPlugin\.l1_weights.*less than or equal to 1"),
        ({"initial_scale": 0.0}, r"CLNPPlugin\.initial_scale.*greater than 0"),
        ({"fine_tune_dropout": 1.0}, r"CLNPPlugin\.fine_tune_dropout.*less than 1"),
        ({"margin_shares": (0.0, 1.0)}, r"CLNPPlugin\.margin_shares.*more than 0"),
        ({"margin_shares": []}, r"CLNPPlugin\.margin_shares.*at least one number"),
        ({"budget": 0.0}, r"CLNPPlugin\.budget.*more than 0"),
        ({"budget": {"layer_1": 1.5}}, r"CLNPPlugin\.budget.*at most 1"),
        ({"budget": "layer_1=many"}, r"CLNPPlugin\.budget.*conv1=0\.3,conv2=0\.5"),
        ({"budget": "layer_1=0.2,layer_1=0.3"}, r"CLNPPlugin\.budget.*layer_1 has several numbers"),
        ({"frozen_cache_mib": -1}, r"CLNPPlugin\.frozen_cache_mib.*greater than or equal to 0"),
        ({"validation_share": 0.0}, r"validation_share must be a share between 0 and 1, but got 0\.0"),
        ({"validation_share": 1.0}, r"validation_share must be a share between 0 and 1, but got 1\.0"),
        ({"fine_tune_epochs": -1}, "fine_tune_epochs must be 0, 1, 2"),
    ],
)
def test_the_plugin_refuses_an_argument_out_of_its_range_at_once(arguments, said):
    with pytest.raises(ClbenchError, match=said):
        CLNPPlugin(**arguments)


def test_the_plugin_takes_options_whole_and_single_ones_that_count_more():
    options = CLNPOptions(margin=2.0, rank="contribution", budget="even")
    assert CLNPPlugin(options).options == options
    changed = CLNPPlugin(options, margin=3.0).options
    assert (changed.margin, changed.rank, changed.budget) == (3.0, "contribution", "even")


@pytest.mark.parametrize("key", ["budget", "margin_shares", "l1_activities"])
@pytest.mark.parametrize(
    ("value", "read"),
    [(0.25, [0.25]), ([0.25, 0.5], [0.25, 0.5]), ("layer_1=0.25, layer_2=0.5", {"layer_1": 0.25, "layer_2": 0.5})],
    ids=["a number", "a list", "by name"],
)
def test_what_is_set_per_group_may_be_one_number_a_list_or_go_by_name(key, value, read):
    options = CLNPOptions(**{key: value})
    assert getattr(options, key) == read
    assert misfit(options, ["layer_1", "layer_2"]) == ""
    assert ("2 values for 3 groups" in misfit(options, ["layer_1", "layer_2", "layer_3"])) == (read == [0.25, 0.5])
    assert ("has the group 'layer_1'" in misfit(options, ["conv_1", "conv_2"])) == isinstance(read, dict)


def test_an_activity_norm_per_group_shifts_the_claims(small_clnp):
    claims = []
    for strengths in ([0.001, 0.03], [0.03, 0.001]):
        method = small_clnp({"l1_weights": 0.0, "l1_activities": strengths}, n_tasks=1)
        method.learn(method.workplace.stream.tasks[0])
        claims.append([row["new"] for row in method.capacity()])
    assert claims[0][0] > claims[1][0]
    assert claims[0][1] < claims[1][1]


@pytest.mark.parametrize("same", [[0.01, 0.01], {"layer_1": 0.01, "layer_2": 0.01}], ids=["list", "by name"])
def test_one_activity_norm_for_all_groups_equals_the_same_for_each(same, small_clnp, logits_of):
    outcomes = []
    for strengths in (0.01, same):
        method = small_clnp({"margin": 1.0, "l1_activities": strengths}, n_tasks=1, epochs=2)
        task = method.workplace.stream.tasks[0]
        method.learn(task)
        outcomes.append(logits_of(method, task))
    assert torch.equal(*outcomes)


def test_a_group_that_a_mapping_leaves_out_has_no_activity_norm(small_clnp, logits_of):
    outcomes = []
    for strengths in ([0.03, 0.0], {"layer_1": 0.03}, [0.03, 0.03]):
        method = small_clnp({"margin": 1.0, "l1_activities": strengths}, n_tasks=1, epochs=2)
        task = method.workplace.stream.tasks[0]
        method.learn(task)
        outcomes.append(logits_of(method, task))
    assert torch.equal(outcomes[0], outcomes[1])
    assert not torch.equal(outcomes[0], outcomes[2])


@pytest.mark.parametrize("key", ["margin_shares", "l1_activities", "budget"])
def test_numbers_for_more_groups_than_there_are_are_refused(key, small_clnp):
    method = small_clnp({key: [0.1, 0.1, 0.1]}, n_tasks=1)
    with pytest.raises(MethodError, match=f"{key} has 3 values for 2 groups of units"):
        method.learn(method.workplace.stream.tasks[0])


def test_shares_of_the_margin_with_one_threshold_for_all_layers_are_refused_before_anything_is_trained():
    with pytest.raises(SettingError, match=r"margin_shares need thresholds per-layer.*margin_shares=none"):
        resolve_settings(SUITES["permuted-mnist"], "clnp", {"thresholds": "global"})
    resolve_settings(SUITES["permuted-mnist"], "clnp", {"thresholds": "global", "margin_shares": None})


@pytest.mark.parametrize("suite", sorted(SUITES))
def test_under_its_own_name_it_has_nothing_beyond_its_paper(suite):
    settings = resolve_settings(SUITES[suite], "clnp", {})
    for options in (settings, CLNPPlugin().options):
        assert (options.l1_activities, options.fine_tune_dropout) == ([0.0], 0.0)
        assert (options.budget, options.rank) == (None, "activity")
        assert options.l1_weights or options.l1_proximal


def test_the_output_weights_are_each_tasks_own_by_default(small_clnp):
    assert CLNPOptions().output_weights == "per-task"
    for output_weights, own in (("per-task", {"head.weight", "head.bias"}), ("shared", {"head.bias"})):
        method = small_clnp({"output_weights": output_weights}, n_tasks=1, epochs=1)
        method.learn(method.workplace.stream.tasks[0])
        assert method.clnp.claims.own[0].keys() == own
