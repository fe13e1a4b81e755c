"""`mlct checkpoint` and `mlct verify`: is the ledger what it was?"""

from dataclasses import replace
from typing import Any

from mlct.adapters.checkpoints import Checkpoints
from mlct.adapters.home import Home
from mlct.errors import LedgerError
from mlct.release import slot as slots
from mlct.release.ledger import Checkpoint, Signer, checkpoint
from mlct.release.slot.audit import require_approved

Answer = tuple[Any, str]


def sign(home: Home, options: Any) -> Answer:
    """Sign for the ledger as it stands, and keep that elsewhere."""
    where = options.to or home.checkpoint
    if not where:
        raise LedgerError(
            "no place for checkpoints",
            expected="--to, or MLCT_CHECKPOINT",
            fix="Name a folder, a git repository or a bucket where the ledger's owner cannot write",
        )
    place, signer = Checkpoints(where), Signer.load(options.key, name=options.origin)
    note = checkpoint(home.ledger, signer, place.read())
    size = Checkpoint.open(note, signer.verifier).size
    path = place.write(note, size=size)
    told = {"statements": size, "written": path, "verifier": str(signer.verifier)}
    return told, f"{size} statements signed for in {path}\nverifier key: {signer.verifier}"


def verify(home: Home, options: Any) -> Answer:
    """The chain, its checkpoints where there are any, the approvals and bytes of what is live."""
    home = replace(
        home,
        checkpoint=options.checkpoint or home.checkpoint,
        checkpoint_key=options.key or home.checkpoint_key,
    )
    signed = home.require_checkpoint()
    count = home.ledger.verify()
    checked = []
    for model in home.ledger.models():
        current = slots.live(home.ledger, model, options.slot)
        if current is not None:
            require_approved(home.ledger, current.record)
            home.approved_files(current.artifact)
            checked.append(f"{model}@{current.version}")
    text = f"{count} statements hold"
    if signed:
        text += f"; the first {signed.size} are those that were signed for"
    if checked:
        text += f"; the bytes of {', '.join(checked)} are the approved ones"
    told = {"statements": count, "signed": signed.size if signed else None, "live": checked}
    return told, text
