"""The mutations of a Python source: one small change each, after which its tests should fail.

Never mutated: docstrings and other texts, messages (what is raised, printed or explains a flag), annotations,
decorators and imports. A mutation replaces one stretch of the source, so that its diff is a line or two.
"""
import ast
from dataclasses import dataclass

COMPARISONS = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.GtE), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,)}
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}
MESSAGES = {"print", "say", "warn", "error", "UserError", "ValueError", "RuntimeError", "exit", "set_postfix"}
EXPLAINING = {"help", "metavar", "description", "desc", "unit", "title", "label", "note", "advice"}


@dataclass(frozen=True)
class Mutation:
    """Replace source[line, column … end_line, end_column) by `text`. Lines from 1, columns in UTF-8 bytes from 0."""

    kind: str
    line: int
    column: int
    end_line: int
    end_column: int
    text: str
    scope: str  # the function around it, as Class.method or outer.inner; "" at the module's or a class's level
    statement: int  # line of the innermost statement around it

    def apply(self, source):
        lines = source.encode().splitlines(keepends=True)
        before = b"".join(lines[: self.line - 1]) + lines[self.line - 1][: self.column]
        after = lines[self.end_line - 1][self.end_column :] + b"".join(lines[self.end_line :])
        return (before + self.text.encode() + after).decode()


def mutations_of(source):
    """All mutations of a source that still parse and differ from it, in its order."""
    tree, found = ast.parse(source), []
    original = ast.dump(tree)
    for part in tree.body:
        _walk(part, "", part, found)
    return [m for m in sorted(set(found), key=lambda m: (m.line, m.column, m.kind, m.text))
            if _differs(m.apply(source), original)]


def _differs(source, original):
    try:
        return ast.dump(ast.parse(source)) != original
    except SyntaxError:
        return False


def _walk(node, scope, statement, found):
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.JoinedStr, ast.Raise)) or _is_message(node):
        return
    if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
        return
    if isinstance(node, ast.stmt):
        statement = node

    def put(kind, where, text):
        found.append(Mutation(kind, where.lineno, where.col_offset, where.end_lineno, where.end_col_offset, text, scope,
                              statement.lineno))

    for kind, where, new in _changes(node):
        put(kind, where, new if isinstance(new, str) else ast.unparse(new) if _stands_alone(new) else
            f"({ast.unparse(new)})")
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        inner = f"{scope}.{node.name}".lstrip(".")
        for value in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            _walk(value, inner, statement, found)
        for part in node.body:
            _walk(part, inner, part, found)
        return
    if isinstance(node, ast.ClassDef):
        for part in node.body:  # what is not in a method belongs to no function
            _walk(part, f"{scope}.{node.name}".lstrip(".") if isinstance(part, ast.FunctionDef) else scope, part, found)
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or (isinstance(node, ast.Assert) and name == "msg"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not (isinstance(child, ast.keyword) and child.arg in EXPLAINING):
                _walk(child, scope, statement, found)


def _is_message(node):
    call = node.value if isinstance(node, ast.Expr) else node
    if isinstance(node, ast.Expr) and isinstance(call, ast.Constant):
        return True  # a docstring
    if not isinstance(call, ast.Call):
        return False
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name in MESSAGES or ast.unparse(call.func) == "tqdm.write"


def _stands_alone(node):
    return isinstance(node, (ast.Constant, ast.Name, ast.Call, ast.Attribute, ast.Subscript, ast.Pass, ast.Slice))


def _changes(node):
    """(kind, the node to replace, a node or text in its place) of what may be changed at this node itself."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for other in COMPARISONS[type(node.ops[0])]:
            yield "comparison", node, ast.Compare(node.left, [other()], node.comparators)
    if isinstance(node, ast.Compare) and len(node.ops) > 1:
        for k, op in enumerate(node.ops):
            ops = [*node.ops[:k], COMPARISONS[type(op)][0](), *node.ops[k + 1 :]]
            yield "comparison", node, ast.Compare(node.left, ops, node.comparators)
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC and not _is_text(node):
        yield "arithmetic", node, ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
    if isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC and not _is_text(node.value):
        changed = ast.AugAssign(node.target, ARITHMETIC[type(node.op)](), node.value)
        yield "arithmetic", node, ast.unparse(changed)
    if isinstance(node, ast.Constant):
        yield from _of_constant(node)
    if isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "boolean", node, ast.BoolOp(other, node.values)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
        yield "dropped " + {ast.Not: "not", ast.USub: "minus", ast.Invert: "~"}[type(node.op)], node, node.operand
    if isinstance(node, (ast.If, ast.While, ast.IfExp)) and not isinstance(node.test, (ast.UnaryOp, ast.Compare)):
        yield "negation", node.test, ast.UnaryOp(ast.Not(), node.test)
    if isinstance(node, ast.comprehension):
        for test in node.ifs:
            yield "dropped filter", test, "True"
    if isinstance(node, ast.Slice):
        for name in ("lower", "upper"):
            bound = getattr(node, name)
            if bound is not None and not isinstance(bound, ast.Constant):
                yield "slice", bound, ast.BinOp(bound, ast.Add(), ast.Constant(1))
                yield "slice", bound, ast.BinOp(bound, ast.Sub(), ast.Constant(1))
    if isinstance(node, ast.Call):
        yield from _of_call(node)
    yield from _of_statement(node)


def _is_text(node):
    return any(isinstance(part, ast.JoinedStr) or (isinstance(part, ast.Constant) and isinstance(part.value, str))
               for part in ast.walk(node))


def _of_constant(node):
    if isinstance(node.value, bool):
        yield "constant", node, ast.Constant(not node.value)
    elif isinstance(node.value, (int, float)):
        for step in (1, -1):
            yield "constant", node, ast.Constant(node.value + step)


def _of_call(node):
    plain = [a for a in node.args if not isinstance(a, ast.Starred)]
    if len(plain) == len(node.args) >= 2 and ast.dump(plain[0]) != ast.dump(plain[1]):
        yield "swapped arguments", node, ast.Call(node.func, [plain[1], plain[0], *plain[2:]], node.keywords)
    given = sorted([*node.args, *node.keywords], key=lambda part: (part.lineno, part.col_offset))
    for k, part in enumerate(given):
        if isinstance(part, ast.keyword) and part.arg and part.arg not in EXPLAINING:
            before, after = given[k - 1] if k else None, given[k + 1] if k + 1 < len(given) else None
            start = (before.end_lineno, before.end_col_offset) if before else (part.lineno, part.col_offset)
            end = (after.lineno, after.col_offset) if after and not before else (part.end_lineno, part.end_col_offset)
            where = ast.Pass(lineno=start[0], col_offset=start[1], end_lineno=end[0], end_col_offset=end[1])
            yield "dropped keyword", where, ""


def _of_statement(node):
    if (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)) or isinstance(node, ast.AugAssign) or (
            isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Attribute, ast.Subscript))):
        yield "removed statement", node, "pass"
    if isinstance(node, (ast.Break, ast.Continue)):
        yield "removed statement", node, "pass"
    if isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield "returns nothing", node, "return None"
