"""data/<name>/manifest.json, the record of prepare.py, read with checks.

  {"name": …, "splits": {split: record}, "dataset": {…} for sets of the user's own}
  record: images (how many), source, verified, sha256, files {file: {bytes, sha256, crc32 {array: CRC}}},
          folder {images, linked, sha256}, left_out [name], also_in_train (images)
"""
import json

from utils.io import UserError, read_file, system_error

FILE = "manifest.json"


def read_manifest(folder):
    """The content of a folder's manifest. FileNotFoundError when there is none, UserError when it is another file."""
    path = folder / FILE
    try:
        content = json.loads(read_file(path))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise system_error(error, path) or UserError(f"{path} is damaged ({error})") from error
    if problem := _problem(content):
        raise UserError(f"{path} is not a manifest of prepare.py ({problem})")
    return content


def _problem(content):
    """What is wrong with a manifest, or ""."""
    if not isinstance(content, dict) or not isinstance(content.get("splits"), dict):
        return "it has no splits"
    if not isinstance(content.get("dataset", {}), dict):
        return "its dataset is invalid"
    for split, record in content["splits"].items():
        if not isinstance(record, dict) or not isinstance(record.get("files", {}), dict):
            return f"the record of {split} is invalid"
        if not isinstance(record.get("source", ""), str):
            return f"the source of {split} is invalid"
        if not isinstance(record.get("verified", False), bool):
            return f"the entry verified of {split} is invalid"
        numbers = [record.get(key, 0) for key in ("images", "also_in_train")]
        if not all(isinstance(number, int) for number in numbers) or not isinstance(record.get("left_out", []), list):
            return f"the record of {split} has no number of images"
        if not isinstance(record.get("folder", {}), dict):
            return f"the folder of {split} is invalid"
        for file, kept in record.get("files", {}).items():
            if "/" in file or not isinstance(kept, dict) or not isinstance(kept.get("bytes"), int):
                return f"the record of {file} is invalid"
    return ""

