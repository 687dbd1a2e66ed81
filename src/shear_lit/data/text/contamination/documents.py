"""The documents of a piece of work without text of evaluation tasks, and what was taken out of them."""

from collections.abc import Iterable

from shear_lit.data.prepared.contamination import Contaminated, ContaminatedText, together
from shear_lit.data.text.contamination.cutting import Cleaned, cleaned
from shear_lit.data.text.contamination.grams import Grams
from shear_lit.data.text.documents import Found

_MOST_SHOWN = 300  # characters of an example


def cleaned_documents(found: Iterable[Found], grams: Grams) -> tuple[list[Found], Contaminated | None]:
    """Documents, each piece of a cut one as a document of its own, and what was found; none where nothing was.

    Tasks are named by their numbers, and places by those of the documents. Documents that came as tokens stay.
    """
    kept, counted = list[Found](), list[Contaminated]()
    for document in found:
        if document.tokens is not None:
            kept.append(document)
            continue
        result = cleaned(document.text, grams)
        kept += [document._replace(text=piece) for piece in result.pieces]
        if result.collisions:
            counted.append(_counted(document, result))
    return kept, together(counted) if counted else None


def _counted(document: Found, result: Cleaned) -> Contaminated:
    first = result.collisions[0]
    text = " ".join(result.shown.split())[:_MOST_SHOWN]
    return Contaminated(
        documents=1,
        dropped=int(not result.pieces),
        pieces=len(result.pieces),
        characters=len(document.text) - sum(map(len, result.pieces)),
        tasks={str(task): 1 for task in {one.task for one in result.collisions}},
        examples=(ContaminatedText(place=str(document.number), task=str(first.task), text=text),),
    )
