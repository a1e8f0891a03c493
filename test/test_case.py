"""Reading a Grand Challenge job: sockets, images, the case's id."""

from collections.abc import Callable
from pathlib import Path

import pytest
from job_files import (
    CHIMERA,
    CLINICAL,
    GENES,
    MASK,
    MASK_UUID,
    PATHS,
    PRESETS,
    RNA,
    SLIDE,
    SLIDE_UUID,
    chimera_items,
    make_job,
    no_warning,
    socket_item,
    write_image,
    write_inputs,
)

from model.case import Record, SlideFile, read_case
from model.errors import CaseError, Warn
from model.interface import Interface, read_interface

LEOPARD = read_interface("leopard", [PRESETS])


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return make_job(tmp_path / "input")


def check_whole_case(job: Path, *, warn: Warn = no_warning) -> str:
    """Check that the job's four inputs are found, and return the case's id."""
    case = read_case(job, CHIMERA, warn=warn)
    slide = job / PATHS[SLIDE] / f"{SLIDE_UUID}.tif"
    assert case.slides == (SlideFile(slide, job / PATHS[MASK] / f"{MASK_UUID}.tif"),)
    assert case.rna == Record(GENES, job / PATHS[RNA])
    assert case.clinical == Record({"age": 72, "sex": "Male"}, job / PATHS[CLINICAL])
    assert case.default_mpp == 0.25
    return case.case_id


# --- inputs.json ----------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [("socket",), ("interface",), ("socket", "interface")])
def test_items_may_say_socket_or_interface(job: Path, keys: tuple[str, ...]) -> None:
    write_inputs(job, chimera_items(keys=keys))
    assert check_whole_case(job) == "3A_001_HE"


def test_a_null_socket_falls_back_to_interface(job: Path) -> None:
    write_inputs(job, [item | {"socket": None} for item in chimera_items()])
    check_whole_case(job)


def test_the_items_order_has_no_meaning(job: Path) -> None:
    write_inputs(job, chimera_items()[::-1])
    check_whole_case(job)


def test_unknown_slugs_are_ignored_with_a_warning(job: Path) -> None:
    other = socket_item("a-text-of-next-year", "a-text-of-next-year.json", value={"a": 1})
    write_inputs(job, [other, *chimera_items()])
    warnings: list[str] = []
    check_whole_case(job, warn=warnings.append)
    assert warnings == [f"{job}/inputs.json: ignored sockets a-text-of-next-year"]


def test_a_job_of_unknown_slugs_alone_is_an_error_that_names_them(job: Path) -> None:
    write_inputs(job, [socket_item(slug, "images/x") for slug in ("wsi", "a-mask")])
    with pytest.raises(CaseError) as caught:
        read_case(job, CHIMERA, warn=no_warning)
    assert str(caught.value) == (
        f"{job}/inputs.json: expected one of the sockets {', '.join(sorted(PATHS))}, "
        "found a-mask, wsi"
    )


def test_without_inputs_json_the_presets_paths_hold(job: Path) -> None:
    assert check_whole_case(job) == SLIDE_UUID


def test_the_relative_path_of_the_job_is_read_not_that_of_the_preset(job: Path) -> None:
    (job / "new-place").mkdir()
    for slug, path in PATHS.items():
        (job / path).rename(job / "new-place" / slug)
    items = [socket_item(slug, path) for slug, path in PATHS.items()]
    for item in items:
        item["socket"]["relative_path"] = f"new-place/{item['socket']['slug']}"
    write_inputs(job, items)
    case = read_case(job, CHIMERA, warn=no_warning)
    assert case.slides[0].path == job / "new-place" / SLIDE / f"{SLIDE_UUID}.tif"
    assert case.slides[0].mask == job / "new-place" / MASK / f"{MASK_UUID}.tif"
    assert case.rna is not None and case.rna.source == job / "new-place" / RNA
    assert case.clinical is not None and case.clinical.source == job / "new-place" / CLINICAL


def test_an_item_without_a_relative_path_is_read_at_the_presets(job: Path) -> None:
    items = chimera_items()
    for item in items:
        del item["socket"]["relative_path"]
    write_inputs(job, items)
    check_whole_case(job)


def test_the_slug_is_cut_at_50_characters_and_the_path_is_not(job: Path) -> None:
    assert len(CLINICAL) == 50
    assert CLINICAL in {socket.slug for socket in CHIMERA.sockets}
    uncut = PATHS[CLINICAL].removesuffix(".json")
    write_inputs(job, [*chimera_items()[:3], socket_item(uncut, PATHS[CLINICAL])])
    warnings: list[str] = []
    assert read_case(job, CHIMERA, warn=warnings.append).clinical is None
    assert warnings == [f"{job}/inputs.json: ignored sockets {uncut}; not received {CLINICAL}"]


def test_an_input_that_the_job_does_not_list_is_absent_even_if_a_file_lies_there(job: Path) -> None:
    write_inputs(job, chimera_items()[:1])
    case = read_case(job, CHIMERA, warn=no_warning)
    assert [slide.mask for slide in case.slides] == [None]
    assert case.rna is None
    assert case.clinical is None


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a.mha", "A.TIF", "b.tiff", "c.svs", "d.vms", "e.vmu", "f.svslide", "g.czi"]
)
def test_every_image_format_is_found(job: Path, name: str) -> None:
    (job / PATHS[SLIDE] / f"{SLIDE_UUID}.tif").unlink()
    image = write_image(job / PATHS[SLIDE] / name)
    write_image(job / PATHS[SLIDE] / "thumbnail.png")
    write_inputs(job, chimera_items())
    assert read_case(job, CHIMERA, warn=no_warning).slides[0].path == image


def test_two_images_in_a_folder_warn_and_the_first_by_name_is_used(job: Path) -> None:
    first = write_image(job / PATHS[SLIDE] / "00000000.tif")
    write_inputs(job, chimera_items())
    warnings: list[str] = []
    case = read_case(job, CHIMERA, warn=warnings.append)
    assert case.slides[0].path == first
    assert warnings == [
        f"{job / PATHS[SLIDE]}: expected one image, found 2; using 00000000.tif",
    ]


NO_IMAGES: dict[str, Callable[[Path], object]] = {
    "._slide.tif": write_image,  # macOS's note of where the file came from
    "0-folder.tif": Path.mkdir,
    "0-link.tif": lambda path: path.symlink_to("gone.tif"),
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_passed_over(job: Path, name: str) -> None:
    NO_IMAGES[name](job / PATHS[SLIDE] / name)
    check_whole_case(job)


def lose_image(folder: Path, left: str) -> None:
    """Take the image out of a folder."""
    for path in folder.iterdir():
        path.unlink()
    if left == "no folder":
        folder.rmdir()
    if left == "other files":
        (folder / "notes.txt").write_text("the slide is in the post")


LEFT = pytest.mark.parametrize("left", ["nothing", "no folder", "other files"])


@LEFT
def test_a_listed_slide_without_a_file_is_an_error(job: Path, left: str) -> None:
    lose_image(job / PATHS[SLIDE], left)
    write_inputs(job, chimera_items())
    with pytest.raises(CaseError) as caught:
        read_case(job, CHIMERA, warn=no_warning)
    assert str(caught.value) == (
        f"case 3A_001_HE: {job / PATHS[SLIDE]}: expected one image (.tif or .mha), found none"
    )


@LEFT
def test_a_listed_mask_without_a_file_is_a_warning(job: Path, left: str) -> None:
    lose_image(job / PATHS[MASK], left)
    write_inputs(job, chimera_items())
    warnings: list[str] = []
    case = read_case(job, CHIMERA, warn=warnings.append)
    assert case.slides == (SlideFile(job / PATHS[SLIDE] / f"{SLIDE_UUID}.tif"),)
    assert warnings == [
        f"{job / PATHS[MASK]}: expected one image (.tif or .mha), found none; tissue is found by "
        "its colour instead"
    ]


def test_a_mask_that_is_required_may_not_be_absent(job: Path) -> None:
    sockets = [
        socket.model_copy(update={"required": True}) if socket.slug == MASK else socket
        for socket in CHIMERA.sockets
    ]
    interface = CHIMERA.model_copy(update={"sockets": tuple(sockets)})
    lose_image(job / PATHS[MASK], "nothing")
    with pytest.raises(CaseError, match=r"tissue-mask: expected one image .*, found none$"):
        read_case(job, interface, warn=no_warning)


def test_a_folder_that_cannot_be_read_is_named_with_its_case(job: Path) -> None:
    """A name that is too long, as permissions do not bind whoever runs the tests as root."""
    away = socket_item(SLIDE, f"images/{'a' * 300}")
    write_inputs(job, [away, *chimera_items()[1:]])
    with pytest.raises(CaseError) as caught:
        read_case(job, CHIMERA, warn=no_warning)
    assert str(caught.value) == (
        f"case 3A_001_HE: {job}/images/{'a' * 300}: expected a readable file or folder, found "
        "File name too long"
    )
    write_inputs(job, [chimera_items()[0], socket_item(MASK, f"images/{'a' * 300}")])
    warnings: list[str] = []
    assert read_case(job, CHIMERA, warn=warnings.append).slides[0].mask is None
    assert [text.partition(", found ")[2] for text in warnings] == [
        "File name too long; tissue is found by its colour instead"
    ]
    with pytest.raises(CaseError, match=r"aa/inputs\.json: expected a readable file or folder, "):
        read_case(job / ("a" * 300), CHIMERA, warn=no_warning)


def test_an_empty_image_folder_is_no_image_where_the_job_lists_nothing(job: Path) -> None:
    (job / PATHS[MASK] / f"{MASK_UUID}.tif").unlink()
    assert read_case(job, CHIMERA, warn=no_warning).slides[0].mask is None


def test_a_required_image_is_needed_with_and_without_inputs_json(tmp_path: Path) -> None:
    with pytest.raises(CaseError) as caught:
        read_case(tmp_path, LEOPARD, warn=no_warning)
    assert str(caught.value) == (
        f"case {tmp_path.name}: {tmp_path}/images/prostatectomy-wsi: expected the input "
        "prostatectomy-tissue-whole-slide-image, found nothing"
    )
    write_inputs(
        tmp_path, [socket_item("prostatectomy-tissue-mask", "images/prostatectomy-tissue-mask")]
    )
    with pytest.raises(CaseError) as caught:
        read_case(tmp_path, LEOPARD, warn=no_warning)
    assert str(caught.value) == (
        f"{tmp_path}/inputs.json: expected socket prostatectomy-tissue-whole-slide-image, "
        "found prostatectomy-tissue-mask"
    )


def test_a_required_images_folder_may_not_be_empty(tmp_path: Path) -> None:
    (tmp_path / "images/prostatectomy-wsi").mkdir(parents=True)
    with pytest.raises(CaseError, match=r"expected one image \(\.tif or \.mha\), found none"):
        read_case(tmp_path, LEOPARD, warn=no_warning)


def test_leopard_reads_a_slide_and_does_without_a_mask(tmp_path: Path) -> None:
    slide = write_image(tmp_path / "images/prostatectomy-wsi/case_radboud_0001.tif")
    case = read_case(tmp_path, LEOPARD, warn=no_warning)
    assert case.slides == (SlideFile(slide),)
    assert case.case_id == "case_radboud_0001"


def test_each_mask_goes_to_the_slide_that_it_names(tmp_path: Path) -> None:
    interface = Interface.model_validate(
        {
            "name": "two",
            "endpoint": "time to nothing",
            "sockets": [
                {"slug": "mask-2", "modality": "mask", "path": "m2", "slide": "slide-2"},
                {"slug": "slide-1", "modality": "slide", "path": "s1"},
                {"slug": "slide-2", "modality": "slide", "path": "s2"},
            ],
            "output": {"path": "answer.json", "unit": "months", "direction": "time"},
        }
    )
    files = {name: write_image(tmp_path / name / "image.tif") for name in ("s1", "s2", "m2")}
    case = read_case(tmp_path, interface, warn=no_warning)
    assert case.slides == (SlideFile(files["s1"]), SlideFile(files["s2"], files["m2"]))


# --- the case's id --------------------------------------------------------------------------------


def test_the_id_is_the_uploaded_name_without_its_suffix(job: Path) -> None:
    """The evaluator knows a case by `image.name[:-4]`."""
    name = "3B_417.scan2_HE.tif"
    write_inputs(job, chimera_items(image={"pk": SLIDE_UUID, "name": name}))
    assert read_case(job, CHIMERA, warn=no_warning).case_id == name[:-4]


def test_without_an_uploaded_name_the_id_is_the_files(job: Path) -> None:
    write_inputs(job, chimera_items(image=None))
    assert read_case(job, CHIMERA, warn=no_warning).case_id == SLIDE_UUID


def test_without_a_slide_the_id_is_the_folders(job: Path) -> None:
    write_inputs(job, chimera_items()[2:])
    case = read_case(job, CHIMERA, warn=no_warning)
    assert case.case_id == "input"
    assert case.slides == ()
    assert case.rna is not None and case.clinical is not None


def test_a_socket_may_name_the_image_itself(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("he.tif", "mask.tif"):
        (tmp_path / "images" / name).touch()
    items = [socket_item(SLIDE, "images/he.tif"), socket_item(MASK, "images/mask.tif")]
    write_inputs(tmp_path, items)
    (found,) = read_case(tmp_path, CHIMERA, warn=no_warning).slides
    assert (found.path, found.mask) == (tmp_path / "images/he.tif", tmp_path / "images/mask.tif")
