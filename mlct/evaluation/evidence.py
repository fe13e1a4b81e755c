"""Can this evaluation decide anything? What has to hold before any metric is looked at."""

from mlct.evaluation.decision import FAIL, INCONCLUSIVE, NOT_JUDGED, PASS, RuleOutcome, percent
from mlct.evaluation.outlook import by
from mlct.evaluation.policy import GatePolicy
from mlct.evaluation.record import Evaluation
from mlct.evaluation.selection import level


def evidence(evaluation: Evaluation, policy: GatePolicy) -> list[RuleOutcome]:
    """The holdout's size, its honesty, and everything about the models that is strange."""
    return [
        *_sizes(evaluation, policy),
        *_looks(evaluation, policy),
        *_selection(evaluation),
        *_rows(evaluation),
        *_models(evaluation),
        *_suspects(evaluation),
    ]


def judgeable(evaluation: Evaluation) -> bool:
    """Whether there are numbers to hold against the rules at all."""
    return not evaluation.single_class and "challenger" not in evaluation.unscored


def _row(
    name: str, outcome: str, observed: str, required: str, reason: str, rule: str = "evidence"
) -> RuleOutcome:
    return RuleOutcome(
        name=name, rule=rule, outcome=outcome, observed=observed, required=required, reason=reason
    )


def _sizes(seen: Evaluation, policy: GatePolicy) -> list[RuleOutcome]:
    sizes = (
        ("rows", seen.rows, policy.min_rows),
        (f"{seen.unit}s", seen.clusters, policy.min_clusters),
        ("positives", seen.positives, policy.min_positives),
    )
    found = []
    for name, size, least in sizes:
        if size is None:
            continue
        short = size < least
        when, clause = by(least, size, seen) if short else (None, "")
        found.append(
            RuleOutcome(
                name=name,
                rule="evidence",
                outcome=INCONCLUSIVE if short else PASS,
                observed=f"{size:,}",
                required=f">= {least:,}",
                reason=f"the holdout has {size:,} {name}, at least {least:,} are required{clause}",
                value=size,
                bound=least,
                needed=least if short else None,
                ready=when,
            )
        )
    return found


def _looks(seen: Evaluation, policy: GatePolicy) -> list[RuleOutcome]:
    if seen.looks is None:
        return []
    declared = policy.primaries[0].confidence
    which = "the first decision" if seen.looks == 1 else f"decision {seen.looks:,}"
    reason = (
        f"this is {which} on this holdout: bounds are at {percent(level(declared, seen.looks))}, "
        f"so that all decisions on it together keep {percent(declared)}"
    )
    return [_row("looks", PASS, f"{seen.looks:,}", "any, at a tightened level", reason, "holdout")]


def _selection(seen: Evaluation) -> list[RuleOutcome]:
    if seen.selected_among <= 1:
        return []
    chosen = f"the challenger was chosen among {seen.selected_among:,} candidates"
    if seen.selected_on is None or seen.holdout_digest is None:
        outcome, where = INCONCLUSIVE, "an unknown window"
        reason = f"{chosen} on a window nobody recorded: confirm it on a holdout known to be fresh"
    elif seen.selected_on == seen.holdout_digest:
        outcome, where = INCONCLUSIVE, "this holdout"
        reason = (
            f"{chosen} on this very holdout, where the luckiest looks best: confirm it on a later "
            "window that nobody selected on"
        )
    else:
        outcome, where = PASS, "another window"
        reason = f"{chosen} on another window and is confirmed on this one"
    required = "a window nobody selected on"
    return [_row("selection", outcome, f"chosen on {where}", required, reason, "holdout")]


def _rows(seen: Evaluation) -> list[RuleOutcome]:
    found = []
    if seen.duplicates is not None:
        said = f"{seen.duplicates:,} rows of the holdout repeat an id"
        reason = f"{said}: they count twice and feign precision; remove them at the source"
        outcome = INCONCLUSIVE if seen.duplicates else PASS
        found.append(_row("duplicates", outcome, f"{seen.duplicates:,}", "0", reason))
    if seen.single_class:
        of_binary = {0: "class 0", seen.rows: "class 1"}
        only = "one class" if seen.positives is None else of_binary[seen.positives]
        reason = (
            f"all {seen.rows:,} labels of the holdout are of {only}: nothing can be told "
            "about telling classes apart; take a longer holdout"
        )
        found.append(_row("classes", INCONCLUSIVE, "1", "rows of every class", reason))
    return found


def _models(seen: Evaluation) -> list[RuleOutcome]:
    found = []
    if problem := seen.unscored.get("challenger"):
        reason = f"the challenger cannot be judged: {problem}"
        found.append(_row("scores", FAIL, problem, "a finite score for every row", reason))
    if seen.identical:
        reason = (
            "the challenger scores every row exactly as the champion does: there is nothing to "
            "replace it for"
        )
        found.append(_row("identical", FAIL, "identical scores", "another model", reason))
    for model in seen.constant:
        reason = f"the {model} gives every row the same score: it tells nothing apart"
        outcome = FAIL if model == "challenger" else NOT_JUDGED
        found.append(_row(f"constant {model}", outcome, "constant", "scores that differ", reason))
    return found


def _suspects(seen: Evaluation) -> list[RuleOutcome]:
    if seen.task != "binary" and not seen.suspects:
        reason = "features are searched for leakage in binary tasks only"
        required = "no feature that knows the label"
        return [_row("leakage", NOT_JUDGED, f"a task of {seen.task}", required, reason)]
    return [
        RuleOutcome(
            name=f"leakage {suspect.column}",
            rule="evidence",
            outcome=FAIL,
            observed="a suspect" if suspect.value is None else f"{suspect.value:.3f}",
            required="no feature that knows the label",
            reason=f"leakage is suspected, so no result can be believed: {suspect.reason}; remove "
            f"{suspect.column} from the features",
            value=suspect.value,
        )
        for suspect in seen.suspects
    ]
