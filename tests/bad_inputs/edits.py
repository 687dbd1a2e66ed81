"""Random changes of files: of the values in them, and of their bytes."""

STRANGE = (
    None,
    True,
    -1,
    0,
    1,
    3,
    2**40,
    2**63,
    10**400,
    1.5,
    float("nan"),
    "",
    "x",
    "../x",
    "a\nb",
    "\ud800",
    [],
    {},
)


def places(value, place=()):
    """Every key and index of a parsed file."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*place, key)
        yield from places(part, (*place, key))


def edited_value(content, numbers):
    """One value is taken out, doubled, given another name, or replaced by a strange one."""
    *above, key = numbers.choice(list(places(content)))
    holder = content
    for step in above:
        holder = holder[step]
    match numbers.randrange(5):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.append(holder[key])
        case 1:
            holder[numbers.choice(["more", "a/b", "", "place"])] = holder.pop(key)
        case 2 if isinstance(holder[key], int | float):
            holder[key] = holder[key] * numbers.choice([-1, 2, 1000, 1e308])
        case _:
            holder[key] = numbers.choice(STRANGE)
    return content


def edited_bytes(content, numbers):
    """Some bytes are changed, cut off, doubled, or put in."""
    place = numbers.randrange(len(content)) if content else 0
    end = min(len(content), place + numbers.randrange(1, 40))
    match numbers.randrange(5):
        case 0:
            return content[:place]
        case 1:
            return content[:end] + content[place:]
        case 2:
            junk = numbers.choice([b"\xff", b"\0", b"[" * 2000, b"&a *a", b"9" * 5000])
            return content[:place] + junk + content[place:]
        case _:
            return (
                content[:place] + bytes([content[place] ^ 1 << numbers.randrange(8)]) + content[place + 1 :]
            )
