"""What `read_table` accepts, and the paragraph it raises for everything else."""

import datetime as dt
import gzip
import sqlite3
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule.data import Table, ames, read_table
from chainrule.errors import DataError


def write(folder: Path, name: str, content: str | bytes) -> str:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


def complaint(source: object, **options: object) -> str:
    """The paragraph raised: one line, ending like a sentence."""
    with pytest.raises(DataError) as caught:
        read_table(source, **options)
    paragraph = str(caught.value)
    assert "\n" not in paragraph
    assert len(paragraph) < 900
    return paragraph


def kinds_of(table: Table) -> dict[str, str]:
    return {column.name: column.kind for column in table.columns}


# What can be read ---------------------------------------------------------------------------------


def test_importing_the_package_loads_neither_duckdb_nor_scikit_learn() -> None:
    program = "import sys, chainrule.data; print({'duckdb', 'sklearn', 'scipy', 'pandas'} & set(sys.modules))"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "set()"


def test_ames_is_whole() -> None:
    table = ames()
    assert table.rows == 2930
    assert len(table.names) == 74
    assert not any(column.missing.any() for column in table.columns)
    assert kinds_of(table)["Neighborhood"] == "category"
    assert len(table["Neighborhood"].levels or ()) == 28
    prices = table["Sale_Price"].values
    assert (prices.min(), prices.max(), prices.sum()) == (12789.0, 755000.0, 529732456.0)


ROWS = {
    "rooms": [2, 3, None],
    "price": [1.5, None, 2.25],
    "street": ["Elm", "Oak", "Elm"],
    "garden": [True, False, None],
    "sold": [dt.datetime(2024, 1, 31), dt.datetime(2024, 2, 29), None],
}


def one_table_in_every_form(folder: Path) -> dict[str, object]:
    forms: dict[str, object] = {
        "columns": ROWS,
        "csv": write(folder, "t.csv", "rooms,price,street,garden,sold\n2,1.5,Elm,true,2024-01-31\n"
                     "3,,Oak,false,2024-02-29\nNA,2.25,Elm,,\n"),
        "semicolons": write(folder, "s.csv", "rooms;price;street;garden;sold\n2;1,5;Elm;true;2024-01-31\n"
                            "3;;Oak;false;2024-02-29\n;2,25;Elm;;\n"),
        "american dates": write(folder, "u.csv", "rooms,price,street,garden,sold\n2,1.5,Elm,true,01/31/2024\n"
                                "3,,Oak,false,02/29/2024\nNA,2.25,Elm,,\n"),
        "tabs": write(folder, "t.tsv", "rooms\tprice\tstreet\tgarden\tsold\n2\t1.5\tElm\ttrue\t2024-01-31\n"
                      "3\t?\tOak\tfalse\t2024-02-29\n\t2.25\tElm\t\t\n"),
        "json": write(folder, "t.json", '[{"rooms":2,"price":1.5,"street":"Elm","garden":true,'
                      '"sold":"2024-01-31"},{"rooms":3,"street":"Oak","garden":false,"sold":"2024-02-29"},{"price":2.25,"street":"Elm"}]'),
    }  # fmt: skip
    csv = Path(str(forms["csv"]))
    forms["compressed"] = write(folder, "t.csv.gz", gzip.compress(csv.read_bytes()))
    forms["path"] = csv
    forms["query"] = f"SELECT * FROM '{csv}';"
    with duckdb.connect(str(folder / "t.duckdb")) as database:
        database.execute(f"CREATE TABLE houses AS SELECT * FROM read_csv('{csv}', nullstr=['', 'NA'])")
        database.execute(f"COPY houses TO '{folder}/t.parquet'")
    forms["database"] = f"{folder}/t.duckdb::houses"
    forms["only table"] = f"{folder}/t.duckdb"
    forms["parquet"] = str(folder / "t.parquet")
    forms["pattern"] = str(folder / "*.parquet")
    return forms


def test_one_table_gives_one_hash_in_every_form(tmp_path: Path) -> None:
    forms = one_table_in_every_form(tmp_path)
    kinds = {"rooms": "number", "price": "number", "street": "category", "garden": "boolean", "sold": "time"}
    expected = read_table(ROWS).data_hash
    assert len(expected) == 64
    for form, source in forms.items():
        table = read_table(source)
        assert kinds_of(table) == kinds, form
        assert table.data_hash == expected, form


def test_dataframes_and_arrow_tables_are_read() -> None:
    pandas = pytest.importorskip("pandas")
    pyarrow = pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(ROWS)
    frame["street"] = frame["street"].astype("category")
    assert read_table(frame).data_hash == read_table(ROWS).data_hash
    assert read_table(pyarrow.table(ROWS)).data_hash == read_table(ROWS).data_hash
    assert "name 'a': numbers 1 and 2" in complaint(pandas.DataFrame([[1, 2]], columns=["a", "a"]))


def test_numpy_columns_are_read() -> None:
    table = read_table({
        "count": np.array([1, 2], np.int8),
        "share": np.ma.masked_array([0.5, 9.0], mask=[False, True]),
        "flag": np.array([True, False]),
        "when": np.array(["2024-01-01", "NaT"], "datetime64[D]"),
        "took": np.array([60, 90], "timedelta64[s]"),
        "word": np.array(["a", ""]),
    })  # fmt: skip
    assert [column.kind for column in table.columns] == [
        "number",
        "number",
        "boolean",
        "time",
        "number",
        "category",
    ]
    assert [column.missing.tolist()[1] for column in table.columns] == [False, True, False, True, False, True]
    assert table["took"].values.tolist() == [60.0, 90.0]


def test_a_sqlite_database_is_read_without_duckdbs_extension(tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE orders (n, city)")
        database.executemany("INSERT INTO orders VALUES (?, ?)", [(1, "Rome"), (None, "Oslo")])
    table = read_table(f"{file}::orders")
    assert table["n"].missing.tolist() == [False, True]
    assert table["city"].texts() == ["Rome", "Oslo"]


def test_a_table_is_returned_as_it_is_unless_a_kind_changes() -> None:
    table = read_table({"code": [1, 2, 1], "y": [1.0, 2.0, 3.0]})
    assert read_table(table) is table
    changed = read_table(table, kinds={"code": "category"})
    assert changed["code"].levels == ("1", "2")
    assert changed["y"] is table["y"]


def test_sniffing_is_reported(tmp_path: Path) -> None:
    preamble = write(tmp_path, "p.csv", "# exported on Monday\n\na;b\n1;2,5\n3;4,5\n")
    (note,) = read_table(preamble).notes
    assert "a semicolon" in note
    assert "a comma before decimals" in note
    assert "first 2 lines" in note
    headless = read_table(write(tmp_path, "n.csv", "1,2\n3,4\n"))
    assert headless.names == ("column0", "column1")
    assert "first line holds values" in headless.notes[0]


def test_column_names_keep_their_case_and_lose_their_blanks(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "c.csv", "a , A,größe\n1,2,3\n"))
    assert table.names == ("a", "A", "größe")


def test_rows_can_be_taken_and_columns_left_out() -> None:
    table = read_table(ROWS).take([2, 0]).without("price")
    assert table["street"].texts() == ["Elm", "Elm"]
    assert table["garden"].texts() == [None, "true"]
    assert table["sold"].texts()[1] == "2024-01-31T00:00:00.000000"
    assert "price" not in table
    assert len(table) == 2


# What a column is ---------------------------------------------------------------------------------


def kind_of(values: object, wish: str | None = None, name: str = "x") -> str:
    return read_table({name: values}, kinds={name: wish} if wish else None)[name].kind


def test_kinds_are_suggested_by_values() -> None:
    thirty = range(30)
    assert kind_of(["00123", "01234"]) == "category"
    assert kind_of(["12", "7", None]) == "number"
    assert kind_of([None, None]) == "empty"
    assert kind_of(["", "NA", " ? "]) == "empty"
    assert kind_of(list(thirty)) == "identifier", "a row number"
    assert kind_of([i + 1 for i in thirty]) == "identifier"
    assert kind_of([i + 1990 for i in thirty]) == "number", "years"
    assert kind_of([3 * i for i in thirty], name="customer_id") == "identifier"
    assert kind_of([3 * i for i in thirty], name="PassengerId") == "identifier"
    assert kind_of([3 * i for i in thirty], name="paid") == "number"
    assert kind_of([i % 7 for i in thirty], name="customer_id") == "number", "it repeats"
    assert kind_of([10**18 + i for i in thirty]) == "identifier", "beyond 2^53"
    assert kind_of([1.5e300, 2.5]) == "number"
    assert kind_of([f"customer {i}" for i in thirty]) == "identifier"
    assert kind_of([f"the house at number {i} has a rather fine view" for i in thirty]) == "text"
    assert kind_of(["a", "b"] * 15) == "category"
    assert kind_of([f"日本 {i % 3}" for i in thirty]) == "category"


def test_wishes_overrule_suggestions() -> None:
    assert kind_of(list(range(30)), "number") == "number"
    assert kind_of([1, 2, 1], "category") == "category"
    assert kind_of(["yes", "no", None], "boolean") == "boolean"
    assert read_table({"x": ["yes", "no", None]}, kinds={"x": "boolean"})["x"].texts() == [
        "true",
        "false",
        None,
    ]
    assert kind_of([1.5, 2.5], "identifier") == "identifier"
    assert kind_of(["2024-01-01 10:00:00", ""], "time") == "time"
    assert kind_of([None, None], "number") == "number"


def test_a_category_wish_keeps_codes_as_the_file_writes_them(tmp_path: Path) -> None:
    file = write(tmp_path, "c.csv", "code,y\n1.0,1\n2.50,2\n")
    assert read_table(file, kinds={"code": "category"})["code"].levels == ("1.0", "2.50")


def test_blanks_around_texts_do_not_count() -> None:
    column = read_table({"x": [" a", "a ", "", "  ", "b"]})["x"]
    assert column.levels == ("a", "b")
    assert column.missing.tolist() == [False, False, True, True, False]


def test_nested_values_are_kept_out_with_their_type(tmp_path: Path) -> None:
    table = read_table("SELECT [1, 2] AS parts, {'a': 1} AS whole, 'x'::BLOB AS raw, 5 AS n")
    assert kinds_of(table) == {
        "parts": "unsupported",
        "whole": "unsupported",
        "raw": "unsupported",
        "n": "number",
    }
    assert "INTEGER[]" in table["parts"].note


def test_duckdb_types_become_plain_ones() -> None:
    table = read_table(
        "SELECT 1.5::DECIMAL(9, 2) AS d, sum(7) AS h, TIME '01:00:00' AS t, INTERVAL 2 DAY AS i, "
        "'a'::ENUM('a', 'b') AS e, uuid() AS u, TIMESTAMPTZ '2024-01-01 02:00:00+02' AS z, "
        "DATE '2024-01-01' AS day"
    )
    assert [column.texts()[0] for column in table.columns if column.name != "u"] == [
        "1.5", "7", "3600", "172800", "a", "2024-01-01T00:00:00.000000", "2024-01-01T00:00:00.000000",
    ]  # fmt: skip


# What is refused ----------------------------------------------------------------------------------


def test_missing_files_suggest_their_neighbours(tmp_path: Path) -> None:
    write(tmp_path, "houses.csv", "a\n1\n")
    paragraph = complaint(str(tmp_path / "house.csv"))
    assert "There is no file" in paragraph
    assert "Did you mean 'houses.csv'?" in paragraph
    assert "no folder" in complaint(str(tmp_path / "nowhere" / "house.csv"))
    assert "pattern" in complaint(str(tmp_path))
    assert "No file matches" in complaint(str(tmp_path / "*.parquet"))
    assert "example table" in complaint("example:amse")


@pytest.mark.parametrize("content", ["", "\n\n", "  ", "\ufeff"])
def test_empty_files(tmp_path: Path, content: str) -> None:
    assert "is empty" in complaint(write(tmp_path, "empty.csv", content))


def test_a_header_without_rows(tmp_path: Path) -> None:
    paragraph = complaint(write(tmp_path, "header.csv", "a,b\n"))
    assert "no rows" in paragraph
    assert "the columns a, b" in paragraph


def test_duplicate_column_names(tmp_path: Path) -> None:
    paragraph = complaint(write(tmp_path, "twice.csv", "price,a,price\n1,2,3\n"))
    assert "'price': numbers 1 and 3" in paragraph
    assert "'a': numbers 1 and 2" in complaint("SELECT 1 AS a, 2 AS a")


@pytest.mark.parametrize("name", ["latin.csv", "latin.csv.gz"])
def test_bytes_that_are_not_utf8(tmp_path: Path, name: str) -> None:
    content = "street,price\nElm,1\nAllée,2\n".encode("latin-1")
    paragraph = complaint(write(tmp_path, name, gzip.compress(content) if name.endswith("gz") else content))
    assert "line 3, byte 22 is 0xe9" in paragraph
    assert content[22] == 0xE9
    assert "'é' in Latin-1" in paragraph
    assert "iconv -f LATIN1" in paragraph
    if name == "latin.csv":
        query = paragraph.split("query: ")[1].rstrip(".")
        assert read_table(query)["street"].texts() == ["Elm", "Allée"], "the cure it names works"


def test_utf16_is_recognised(tmp_path: Path) -> None:
    paragraph = complaint(write(tmp_path, "wide.csv", "a,b\n1,x\n".encode("utf-16")))
    assert "encoding='utf-16'" in paragraph
    assert read_table(paragraph.split("query: ")[1].rstrip("."))["b"].texts() == ["x"]


def test_lines_that_do_not_fit(tmp_path: Path) -> None:
    for content, line in (
        ("a,b\n1,2\n3\n4,5,6\n", 3),
        ("a,b\n1,2\n3,4\n5,6,7\n", 4),
        ("a;b\n1;2\n3;4;5\n6;7\n", 3),
    ):
        file = write(tmp_path, "odd.csv", content)
        assert f"line {line}: " in complaint(file)
        assert "where the header has 2" in complaint(file)


def test_cut_files(tmp_path: Path) -> None:
    duckdb.execute(f"COPY (SELECT range AS a FROM range(10000)) TO '{tmp_path}/whole.parquet'")
    whole = (tmp_path / "whole.parquet").read_bytes()
    assert "cut short or damaged" in complaint(write(tmp_path, "cut.parquet", whole[: len(whole) // 2]))
    packed = gzip.compress(b"a,b\n" + b"1,2\n" * 10000)
    assert "cut short or damaged" in complaint(write(tmp_path, "cut.csv.gz", packed[: len(packed) // 2]))
    assert "cut short or damaged" in complaint(write(tmp_path, "cut.json", '[{"a": 1}, {"a":'))


def test_text_in_a_column_of_numbers(tmp_path: Path) -> None:
    lines = "".join(f"{i / 7},{i}\n" for i in range(100))
    file = write(tmp_path, "stray.csv", "area,y\n" + lines + "about forty,1\n" + lines)
    paragraph = complaint(file)
    assert "Column 'area'" in paragraph
    assert "row 101 says 'about forty'" in paragraph
    assert "kinds={'area': 'category'}" in paragraph
    assert read_table(file, kinds={"area": "category"})["area"].kind == "category"
    assert "row 3 says 'x'" in complaint({"a": [1, 2, "x"]}, kinds={"a": "number"})
    marked = [str(i) for i in range(60)] + ["unknown"] * 30
    assert "29 more rows" in complaint({"a": marked})
    assert kind_of(["1", "2", "3+", "3+"] * 10) == "category", "few different numbers: labels"


def test_infinite_values(tmp_path: Path) -> None:
    paragraph = complaint(write(tmp_path, "inf.csv", "area,y\n1.5,1\ninf,2\n-inf,3\n"))
    assert "Column 'area'" in paragraph
    assert "row 2 (2 rows in all)" in paragraph
    assert "isfinite" in paragraph
    assert "row 1;" in complaint({"a": np.array([np.inf, 1.0])})


def test_queries_that_cannot_run(tmp_path: Path) -> None:
    file = write(tmp_path, "h.csv", "price\n1\n")
    assert 'Candidate bindings: "price"' in complaint(f"SELECT prize FROM '{file}'")
    assert "no rows" in complaint("SELECT 1 AS a WHERE false")
    assert "The query cannot run" in complaint("SELECT FROM WHERE")


def test_databases_name_their_tables(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as database:
        database.execute("CREATE TABLE orders AS SELECT 1 AS a; CREATE TABLE returns AS SELECT 1 AS a")
    assert "It holds orders, returns" in complaint(str(tmp_path / "shop.duckdb"))
    assert "Did you mean 'orders'?" in complaint(f"{tmp_path}/shop.duckdb::order")


def test_things_that_are_no_table(tmp_path: Path) -> None:
    assert "A int is not a table" in complaint(5)
    assert "'a' has 2, 'b' has 1" in complaint({"a": [1, 2], "b": [1]})
    assert "no columns" in complaint({})
    assert "no rows" in complaint({"a": []})
    assert "shape (2, 2)" in complaint({"a": np.ones((2, 2))})
    assert "complex" in complaint({"a": np.array([1j])})
    assert "spreadsheet" in complaint(write(tmp_path, "book.xlsx", "PK"))
    assert "Did you mean 'zip'?" in complaint({"zip": [1]}, kinds={"zipp": "category"})
    assert "choose one of" in complaint({"zip": [1]}, kinds={"zip": "float"})
    assert "cannot be read as true or false: row 2" in complaint(
        {"a": ["yes", "maybe"]}, kinds={"a": "boolean"}
    )
    assert "cannot be read as a time: row 1" in complaint({"a": ["soon"]}, kinds={"a": "time"})


def test_a_column_that_is_not_there() -> None:
    with pytest.raises(DataError, match="Did you mean 'street'"):
        read_table(ROWS)["streets"]


# Properties ---------------------------------------------------------------------------------------

numbers = (
    st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32) | st.integers(-(2**40), 2**40)
)
words = st.none() | st.text(max_size=12)


@given(st.lists(st.tuples(numbers, words, st.booleans()), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_columns_become_a_table_that_hashes_to_itself(
    rows: list[tuple[object, str | None, bool]],
) -> None:
    columns = {"n": [row[0] for row in rows], "w": [row[1] for row in rows], "b": [row[2] for row in rows]}
    table = read_table(columns, kinds={"w": "category"})
    assert table.rows == len(rows)
    assert table.data_hash == read_table(columns, kinds={"w": "category"}).data_hash
    assert table.take(range(len(rows))).data_hash == table.data_hash
    n = table["n"]
    present = [float(value) for value in columns["n"] if value is not None]
    assert n.values[~n.missing].tolist() == present
    assert table["b"].values.tolist() == columns["b"]


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=8),
        min_size=2,
        max_size=40,
    )
)
@settings(max_examples=40, deadline=None)
def test_texts_survive_the_way_through_a_file(entries: list[str]) -> None:
    wish = {"w": "category"}
    direct = read_table({"w": entries, "y": range(7, 7 + len(entries))}, kinds=wish)
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE t (w VARCHAR, y DOUBLE)")
        connection.executemany(
            "INSERT INTO t VALUES (?, ?)", [[text, 7 + i] for i, text in enumerate(entries)]
        )
        frame = connection.sql("FROM t").to_arrow_table()
    assert read_table(frame, kinds=wish).data_hash == direct.data_hash
