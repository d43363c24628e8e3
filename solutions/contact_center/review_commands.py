"""`haechi bot review`, `compare`, `analytics`, `bandit`: learn from what was said, and prove that it helped."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from shared.errors import BadInput

if TYPE_CHECKING:
    from solutions.contact_center.bandit_evaluation import Judgement
    from solutions.contact_center.compare import Comparison
    from solutions.contact_center.config import Bot

_JSON = typer.Option(None, "--json", metavar="FILE", help="Also write the result there as JSON.")
_BOT = typer.Argument(..., metavar="BOT", help="A bot's folder, its package, or its name in the registry.")


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(review)
    app.command()(compare)
    app.command()(analytics)
    app.command()(bandit)


def bot_of(place: str) -> Bot:
    """The bot in a folder, a package or the registry.

    Raises:
        BadInput: there is none.
    """
    from shared.package import open_package
    from shared.registry import locate
    from solutions.contact_center.config import Bot, load

    if (Path(place) / "bot.yaml").exists():
        return load(Path(place))
    package = open_package(locate(place))
    if "bot.json" not in package.assets:
        raise BadInput(f"{place} holds no bot; give a bot's folder, or a package made from one.")
    return Bot.from_dict(json.loads(package.asset("bot.json")))


def review(
    bot: str = _BOT,
    action: str = typer.Argument("list", metavar="[list|label|export]"),
    group: int | None = typer.Option(None, "--group", min=1, help="label: this group of the list."),
    text: list[str] = typer.Option([], "--text", help="label: these texts; may be given several times."),
    label: str | None = typer.Option(None, "--as", help="label: an intent, a question, oos, or none."),
    most: int = typer.Option(20, "--most", min=1, help="list: groups that are shown."),
    json_file: Path | None = _JSON,
) -> None:
    """See what the bot was unsure of or people disliked, say what it means, and write it into the bot's folder.

    `label BOT --group 1 --as roaming` labels a group of the list; `--as none` settles it without learning from it;
    a name that no intent has makes a new one. `export` writes intents/reviewed.yaml and faq/reviewed.yaml.
    """
    from shared.files import write_json
    from shared.records import Records
    from shared.streams import Streams
    from solutions.contact_center.review import Review

    read = bot_of(bot)
    with Records.open() as records:
        made = Review(Streams(records), read)
        if action == "list":
            result: Any = _listed(made, most)
        elif action == "label":
            result = _labelled(made, read, group, text, label)
        elif action == "export":
            if read.folder is None:
                raise BadInput(f"{bot} is a package; export writes into a bot's folder: give that.")
            result = made.export(read.folder)
            for name, count in sorted(result.items()):
                typer.echo(f"{count:5} {name}")
            typer.echo(f"Written into {read.folder}; train the bot again, and compare it with the champion.")
        else:
            raise BadInput(f"{action!r} is no action; write list, label or export.")
    if json_file is not None:
        write_json(json_file, result)


def _listed(made: Any, most: int) -> list[dict[str, Any]]:
    groups = made.groups()
    for number, one in enumerate(groups[:most], 1):
        reasons = ", ".join(f"{count} {reason}" for reason, count in one.reasons.most_common())
        hint = f" → {one.suggestion}?" if one.suggestion else ""
        typer.echo(f"{number:3}  {one.name}  ({reasons}){hint}")
        for text in one.texts[:3]:
            typer.echo(f"       {text}")
    if not groups:
        typer.echo("Nothing to look at.")
    return [
        {"name": one.name, "texts": one.texts, "suggestion": one.suggestion, "reasons": dict(one.reasons)}
        for one in groups
    ]


def _labelled(made: Any, bot: Bot, group: int | None, texts: list[str], label: str | None) -> dict[str, Any]:
    if label is None or (group is None) == (not texts):
        raise BadInput("label needs --as NAME, and either --group N or --text TEXT.")
    pairs = [(text, bot.settings.language) for text in texts]
    if group is not None:
        groups = made.groups()
        if group > len(groups):
            raise BadInput(f"--group {group}: the list has {len(groups)}.")
        pairs = [(one.text, one.language) for one in groups[group - 1].members]
    count = made.label(pairs, "" if label == "none" else label, _who())
    typer.echo(f"{count} texts are now {label}.")
    return {"label": label, "texts": count}


def compare(
    champion: str = typer.Argument(..., help="Package, or name@3, name@champion in the registry."),
    challenger: str = typer.Argument(..., help="Package, or a version in the registry, such as name@4."),
    data: Path = typer.Option(..., "--data", metavar="FILE", help="Held-out CSV: text, intent, maybe conversation."),
    margin: float | None = typer.Option(None, "--margin", min=0, help="Cost an utterance that counts as no worse."),
    promote: bool = typer.Option(False, "--promote", help="Make the challenger champion if the figures allow it."),
    seed: int = typer.Option(0, "--seed", min=0, help="Of the bootstrap."),
    json_file: Path | None = _JSON,
) -> None:
    """Compare two trained bots on the same utterances; exit code 1 if the challenger may not be promoted."""
    from shared.files import write_json
    from shared.registry import Registry, locate
    from solutions.contact_center.compare import MARGIN, read_held_out
    from solutions.contact_center.compare import compare as run
    from solutions.contact_center.understanding import Understander

    version = Registry().resolve(challenger) if promote else None
    sides = [Understander.load(locate(place)) for place in (champion, challenger)]
    found = run(sides[0], sides[1], read_held_out(data), margin=MARGIN if margin is None else margin, seed=seed)
    _print_comparison(found)
    result = found.as_dict()
    if version is not None and found.may_be_promoted:
        change = Registry().promote(version.name, version.version)
        result["promoted"] = f"{change.name}@{change.after}"
        typer.echo(f"{result['promoted']} is the champion now.")
    if json_file is not None:
        write_json(json_file, result)
    if not found.may_be_promoted:
        raise typer.Exit(1)


def _print_comparison(found: Comparison) -> None:
    typer.echo(f"{found.utterances} utterances in {found.conversations} conversations; {found.left_out} left out.")
    for name, side in (("champion", found.champion), ("challenger", found.challenger)):
        rungs = ", ".join(f"{rung} {count}" for rung, count in side.rungs.items())
        typer.echo(f"{name:11} right {side.right / found.utterances:.1%}  cost {side.cost:.3f}  ({rungs})")
    typer.echo(
        f"right with one alone: champion {found.only_champion}, challenger {found.only_challenger} "
        f"(McNemar, exact: p = {found.p_value:.3g})"
    )
    typer.echo(
        f"saved by the challenger: {found.saved:+.3f} an utterance (95 %: {found.low:+.3f} to {found.high:+.3f})"
    )
    typer.echo(f"{found.verdict}: {found.why}.")


def analytics(
    bot: str = _BOT,
    days: int = typer.Option(30, "--days", min=1, help="Up to today."),
    channel: str = typer.Option("", "--channel", help="Only this one."),
    language: str = typer.Option("", "--lang", help="Only this one."),
    json_file: Path | None = _JSON,
) -> None:
    """Figures of the stored conversations: containment, hand-overs, drop-off, rungs, unknown topics."""
    from shared.files import write_json
    from shared.progress import stage
    from shared.records import Records
    from shared.streams import Streams
    from solutions.contact_center.analytics import Analytics

    read = bot_of(bot)
    with Records.open() as records:
        counted = Analytics(Streams(records), read)
        with stage("events"):
            counted.refresh()
        found = counted.report(days=days, channel=channel, language=language)
    _print_figures(found)
    if json_file is not None:
        write_json(json_file, found)


def _print_figures(found: dict[str, Any]) -> None:
    contained = "–" if found["containment"] is None else f"{found['containment']:.1%}"
    typer.echo(f"{found['conversations']} conversations in {found['days']} days, {found['messages']} messages")
    typer.echo(f"contained {contained}; handed over {found['handed_over']}: {_counts(found['hand_over_reasons'])}")
    typer.echo(f"rungs: {_counts(found['rungs'])}")
    typer.echo(
        f"answers: {found['answer_ms_p50']} ms in the median, {found['answer_ms_p95']} ms at the 95th percentile"
    )
    for flow in found["flows"]:
        typer.echo(f"{flow['flow']}: started {flow['started']}, {_counts(flow['ended'])}")
        for step in flow["steps"]:
            typer.echo(f"    {step['step']:20} {step['entered']:6} came, {step['dropped']} left here")
    for topic in found["unknown_topics"]:
        typer.echo(f"unknown: {topic['name']} ({topic['count']})")


def _counts(values: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in values.items()) or "none"


def bandit(
    bot: str = _BOT,
    action: Literal["judge", "approve", "stop"] = typer.Argument("judge", metavar="[judge|approve|stop]"),
    json_file: Path | None = _JSON,
) -> None:
    """Learn a policy from logged choices and judge it off-policy; `approve` lets it serve if the figures allow it.

    `stop` goes back to the ladder at once; running servers follow within a message.
    """
    from shared import settings
    from shared.files import write_json
    from shared.records import Records
    from shared.streams import Streams
    from solutions.contact_center.bandit import Policy, path_of
    from solutions.contact_center.bandit_evaluation import approved
    from solutions.contact_center.desk import judged

    read = bot_of(bot)
    path = path_of(read.settings.name, settings.load().home)
    if action == "stop":
        Policy(Policy.load(path).explore).save(path)
        typer.echo("The ladder decides again.")
        return
    with Records.open() as records:
        judgement, variants = judged(Streams(records), read, Policy.load(path).explore)
    _print_judgement(judgement)
    for response, one in variants.items():
        if one.approved:
            typer.echo(f"variants of {response}: {one.why}.")
    if json_file is not None:
        by_response = {response: one.as_dict() for response, one in variants.items()}
        write_json(json_file, {**judgement.as_dict(), "variants": by_response})
    if action == "approve":
        approved(judgement, variants).save(path)
        typer.echo("Approved: servers take it up with the next message.")


def _print_judgement(judgement: Judgement) -> None:
    typer.echo(
        f"learned from {judgement.learned_from} choices, judged on {judgement.judged_on} later ones "
        f"in {judgement.conversations} conversations"
    )
    for name, values in (("policy", judgement.values), ("ladder", judgement.ladder)):
        if values is not None:
            typer.echo(
                f"{name:7} {values.dr.value:.4f} (95 %: {values.dr.low:.4f} to {values.dr.high:.4f}) by doubly robust; "
                f"SNIPS {values.snips.value:.4f}, IPS {values.ips.value:.4f}; {values.effective:.0f} effective choices"
            )
    if judgement.gain is not None:
        gain = judgement.gain
        typer.echo(
            f"gain    {gain.value:+.4f} (95 %: {gain.low:+.4f} to {gain.high:+.4f}); {judgement.changed:.1%} changed"
        )
    typer.echo(f"{'may go live' if judgement.approved else 'may not go live'}: {judgement.why}.")


def _who() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user id has no name
        return "unknown"
