"""Short profile texts for users, such as "a 24-year-old technician", from the columns of a user table.

It masks nothing (identity.py does) and reads no gender and no postal code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hushrec.common.errors import DataError
from hushrec.common.tables import Table

TEXT_COLUMNS = ("profile", "description", "bio", "about", "interests")

# Codes of users.dat in MovieLens-1M, from the README of that data set.
ML1M_AGES = {
    "1": "under 18",
    "18": "aged 18 to 24",
    "25": "aged 25 to 34",
    "35": "aged 35 to 44",
    "45": "aged 45 to 49",
    "50": "aged 50 to 55",
    "56": "aged 56 or older",
}
ML1M_OCCUPATIONS = {
    "0": "other",
    "1": "academic or educator",
    "2": "artist",
    "3": "clerical or administrative worker",
    "4": "college or graduate student",
    "5": "customer service worker",
    "6": "doctor or health care worker",
    "7": "executive or manager",
    "8": "farmer",
    "9": "homemaker",
    "10": "K-12 student",
    "11": "lawyer",
    "12": "programmer",
    "13": "retired",
    "14": "sales or marketing worker",
    "15": "scientist",
    "16": "self-employed",
    "17": "technician or engineer",
    "18": "tradesman or craftsman",
    "19": "unemployed",
    "20": "writer",
}
# Occupations that do not read as a person.
_PERSONS = {
    "": "person",
    "none": "person",
    "other": "person",
    "entertainment": "entertainment worker",
    "healthcare": "health care worker",
    "marketing": "marketing worker",
    "retired": "retired person",
    "self-employed": "self-employed person",
    "unemployed": "unemployed person",
}


def profiles_by_user(table: Table, user_column: str, texts: Sequence[str]) -> dict[str, str]:
    """Return raw user id -> text.

    Raises:
        DataError: one user has two different texts, or an id is missing.
    """
    user_ids, codes = table.ids(user_column)
    profiles: dict[str, str] = {}
    for row, (code, text) in enumerate(zip(codes.tolist(), texts, strict=True)):
        if profiles.setdefault(user_ids[code], text) != text:
            raise DataError(f"{table.place(row)}: this user occurs again with another profile; keep one row per user")
    return profiles


def profile_texts(columns: Mapping[str, Sequence[str]], rows: int) -> list[str]:
    """Return one text per row of a user table.

    Args:
        columns: name -> cells. A free-text column (profile, description, bio, about, interests) is taken as it is;
            otherwise `age` and `occupation`, where MovieLens-1M codes are recognised by all their values.
    Returns:
        `rows` texts, "" where the table says nothing.
    """
    for name in TEXT_COLUMNS:
        if name in columns:
            return list(columns[name])
    ages = columns.get("age", [""] * rows)
    occupations = columns.get("occupation", [""] * rows)
    coded = "occupation" in columns and set(occupations) <= ML1M_OCCUPATIONS.keys() and set(ages) <= ML1M_AGES.keys()
    describe = _coded_profile if coded else _plain_profile
    return [describe(age, occupation) for age, occupation in zip(ages, occupations, strict=True)]


def _coded_profile(age: str, occupation: str) -> str:
    word = ML1M_OCCUPATIONS[occupation]
    person = _PERSONS.get(word, word)
    return f"{_article(person)} {person} {ML1M_AGES[age]}"


def _plain_profile(age: str, occupation: str) -> str:
    years = age.removesuffix(".0")
    person = _PERSONS.get(occupation.lower(), occupation)
    if years.isdecimal():
        article = "an" if years.startswith("8") or years in ("11", "18") else "a"
        return f"{article} {years}-year-old {person}"
    return "" if person == "person" else f"{_article(person)} {person}"


def _article(word: str) -> str:
    return "an" if word[:1].lower() in "aeiou" and not word.startswith("uni") else "a"
