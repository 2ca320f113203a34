"""Inserts calls into student code that tell the race detector which data is read and written.

A pass over the syntax tree turns ``V.term`` into ``__race_read__(V, "term", 7).term``, where 7 is the number of the
site. It runs after the pass that inserts switch points. The call returns ``V``, so the statement does what it did
before. Line numbers do not change. Uses of lists, dicts and sets (items, methods, loops, ``in``) and uses of variables
that several functions share are reported in the same way."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

READ = "__race_read__"  # (object, attribute, site) → object
WRITE = "__race_write__"  # (object, attribute, site) → object
UPDATE = "__race_update__"  # (object, attribute, site) → object; `V.term += 1` reads, then writes
USE = "__race_use__"  # (container, site) → container; it is read as a whole
CHANGE = "__race_change__"  # (container, site) → container; it is changed as a whole
ITEM = "__race_item__"  # (container, key, site) → container; one item is read
SET_ITEM = "__race_set_item__"  # (container, key, site) → container; one item is written
QUEUED = "__race_queued__"  # (container, site) → container; something is put into it; see Detector.hooks
TAKEN = "__race_taken__"  # (container, site) → container; something is taken from it
VARIABLE = "__race_variable__"  # (owner, name, site, value) → value
WROTE = "__race_wrote__"  # (owner, name, site)
SCOPE = "__race_scope__"  # () → a new owner for the variables of one call of a function
MODULE = "__race_module__"  # the owner of the module's variables

_PUTS = frozenset(("append", "appendleft", "extend", "extendleft"))
_TAKES = frozenset(("pop", "popleft"))
_CHANGES = frozenset(
    ("add", "clear", "difference_update", "discard", "insert", "intersection_update", "popitem", "remove", "reverse",
     "rotate", "setdefault", "sort", "symmetric_difference_update", "update")
)  # fmt: skip
_USES = frozenset(
    ("copy", "count", "difference", "index", "intersection", "isdisjoint", "issubset", "issuperset", "items", "keys",
     "union", "values")
)  # fmt: skip
# Functions that read the containers passed to them.
_READERS = frozenset(
    ("all", "any", "bytes", "copy", "deepcopy", "dict", "dumps", "enumerate", "filter", "frozenset", "iter", "len", "list",
     "map", "max", "min", "reversed", "set", "sorted", "sum", "tuple", "zip")
)  # fmt: skip
# Calls in a constructor that may make the object known to other threads.
_STARTS = frozenset(("start", "submit", "start_new_thread", "map"))
_MAX_TEXT = 60  # characters of an expression in a finding

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class Site(NamedTuple):
    """A place in student code. ``function`` is a qualified name, and ``text`` is the expression that is used there."""

    file: str
    line: int
    function: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


class Instrumenter:
    """Instruments the modules of one submission.

    Args:
        trees: The syntax trees of all its modules, by file name.
    """

    def __init__(self, trees: Mapping[str, ast.Module]) -> None:
        self.files = frozenset(trees)
        self.sites: list[Site] = []
        # The attributes that may change after other threads know their object, each with the names of the classes whose
        # methods change it. None: the attribute may change in any object, because some code changes it through
        # another name than `self`.
        self.attributes: dict[str, set[str] | None] = {}
        self.class_attributes: set[str] = set()
        self.lock_names: dict[str, str] = {}  # expressions, by the place where each lock is taken
        # Positions of those stores in constructors that no other thread can notice, by file.
        self.quiet: dict[str, set[tuple[int, int]]] = {}
        for file, tree in trees.items():
            self._collect(file, tree)

    def _collect(self, file: str, tree: ast.Module) -> None:
        quiet = self.quiet.setdefault(file, set())
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                quiet |= set(_stores_before_threads(node))
                for statement in node.body:
                    targets = statement.targets if isinstance(statement, ast.Assign) else []
                    self.class_attributes |= {name.id for name in targets if isinstance(name, ast.Name)}
        classes = _classes_of_stores(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, (ast.Store, ast.Del)):
                if (node.lineno, node.col_offset) not in quiet:
                    known = self.attributes.setdefault(node.attr, set())
                    changer = classes.get((node.lineno, node.col_offset))
                    if changer is None or known is None:
                        self.attributes[node.attr] = None
                    else:
                        known.add(changer)
            elif isinstance(node, (ast.With, ast.AsyncWith)):
                for item in node.items:
                    self.lock_names[f"{file}:{item.context_expr.lineno}"] = ast.unparse(item.context_expr)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "acquire":
                self.lock_names[f"{file}:{node.lineno}"] = ast.unparse(node.func.value)

    def instrument(self, tree: ast.Module, file: str) -> None:
        """Change ``tree`` in place."""
        _Pass(self, file).module(tree)


def _classes_of_stores(tree: ast.Module) -> dict[tuple[int, int], str]:
    """The position of each store to an attribute of ``self``, with the class whose method contains the store."""
    found: dict[tuple[int, int], str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)) and method.args.args:
                    own = method.args.args[0].arg
                    for target in ast.walk(method):
                        if _is_store_to(target, own):
                            found[target.lineno, target.col_offset] = node.name  # type: ignore[attr-defined]
    return found


def _is_store_to(node: ast.AST, own: str) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == own
    )


def _stores_before_threads(node: ast.ClassDef) -> Iterator[tuple[int, int]]:
    """The positions of those stores in a constructor that happen before any other thread can know the object."""
    starts_threads = any(
        isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in _STARTS
        for call in ast.walk(node)
    )
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            own = method.args.args[0].arg if method.args.args else ""
            for statement in method.body:
                if starts_threads and any(_may_start(call, own) for call in ast.walk(statement)):
                    break
                for target in ast.walk(statement):
                    if _is_store_to(target, own):
                        yield target.lineno, target.col_offset  # type: ignore[attr-defined]


def _may_start(node: ast.AST, own: str) -> bool:
    """Whether ``node`` may start a thread that knows the object ``own``: it starts a thread or calls a method of ``own``."""
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    if isinstance(function, ast.Attribute):
        of_own = isinstance(function.value, ast.Name) and function.value.id == own
        if function.attr in _STARTS or of_own:
            return True
    return False


class _Scope:
    """A function, with the variables that functions inside it change."""

    def __init__(self, node: ast.AST | None, outer: _Scope | None, bound: set[str]) -> None:
        self.node = node
        self.outer = outer
        self.bound = bound
        self.globals: set[str] = set()
        self.nonlocals: set[str] = set()
        self.shared: set[str] = set()
        self.name = ""  # the hidden variable that identifies one call of the function


class _Pass(ast.NodeTransformer):
    """Changes the tree of one module in place."""

    def __init__(self, instrumenter: Instrumenter, file: str) -> None:
        self._sites = instrumenter.sites
        self._attributes = instrumenter.attributes
        self._quiet = instrumenter.quiet.get(file, set())
        self._file = file
        self._function: list[str] = []
        self._module_variables: set[str] = set()
        self._scopes: dict[ast.AST, _Scope] = {}
        self._scope: _Scope | None = None
        self._numbers = 0

    def module(self, tree: ast.Module) -> None:
        self._find_shared_variables(tree, None)
        self.visit(tree)

    # --- variables that several functions share ---

    def _find_shared_variables(self, node: ast.AST, scope: _Scope | None) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                inner = self._scopes[child] = _Scope(child, scope, _bound(child))
                for statement in _own_nodes(child):
                    if isinstance(statement, ast.Global):
                        self._module_variables |= set(statement.names)
                        inner.globals |= set(statement.names)
                    elif isinstance(statement, ast.Nonlocal):
                        inner.nonlocals |= set(statement.names)
                inner.bound -= inner.globals | inner.nonlocals
                for name in inner.nonlocals:
                    owner = scope
                    while owner is not None and name not in owner.bound:
                        owner = owner.outer
                    if owner is not None:
                        owner.shared.add(name)
                        if not owner.name:
                            self._numbers += 1
                            owner.name = f"__race_scope_{self._numbers}__"
                self._find_shared_variables(child, inner)
            else:
                self._find_shared_variables(child, scope)

    def _owner(self, name: str) -> ast.expr | None:
        """An expression for the owner of a shared variable; ``None`` if the variable is not shared."""
        scope = self._scope
        if scope is None:
            return None
        while scope is not None:
            if name in scope.globals:
                break
            if name in scope.bound:
                return ast.Name(scope.name, ast.Load()) if name in scope.shared else None
            scope = scope.outer
        return ast.Name(MODULE, ast.Load()) if name in self._module_variables else None

    # --- making calls ---

    def _site(self, node: ast.AST, shown: ast.AST) -> ast.Constant:
        text = ast.unparse(shown)
        if len(text) > _MAX_TEXT:
            text = text[: _MAX_TEXT - 1] + "…"
        line: int = getattr(node, "lineno", 0)
        self._sites.append(Site(self._file, line, ".".join(self._function), f"`{text}`"))
        return ast.Constant(len(self._sites) - 1)

    def _call(self, hook: str, arguments: list[ast.expr], place: ast.AST) -> ast.Call:
        call = ast.Call(ast.Name(hook, ast.Load()), arguments, [])
        for node in (call, call.func, *arguments):
            if not hasattr(node, "lineno"):
                ast.copy_location(node, place)
        return call

    def _used(self, node: ast.expr, hook: str = USE) -> ast.expr:
        """Visit ``node``, which has not been visited, and report it as a container that is read (or changed) as a
        whole."""
        site = self._site(node, node)
        visited: ast.expr = self.visit(node)
        if not _may_be_container(node):
            return visited
        return self._call(hook, [visited, site], node)

    # --- statements and expressions ---

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> ast.AST:
        scope = self._scopes[node]
        self._function.append(getattr(node, "name", "a lambda"))
        outer, self._scope = self._scope, scope
        if isinstance(node, ast.Lambda):
            node.body = self.visit(node.body)
        else:
            node.body = [new for statement in node.body for new in self._statement(statement)]
            if scope.name:
                owner = ast.Assign([ast.Name(scope.name, ast.Store())], self._call(SCOPE, [], node.body[0]))
                ast.copy_location(owner, node.body[0])
                ast.copy_location(owner.targets[0], node.body[0])
                position = 1 if _is_docstring(node.body[0]) and len(node.body) > 1 else 0
                node.body.insert(position, owner)
        self._scope = outer
        self._function.pop()
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self._function.append(node.name)
        node.body = [new for statement in node.body for new in self._statement(statement)]
        self._function.pop()
        return node

    visit_FunctionDef = _visit_function
    visit_AsyncFunctionDef = _visit_function
    visit_Lambda = _visit_function

    def _statement(self, statement: ast.stmt) -> list[ast.stmt]:
        visited = self.visit(statement)
        return visited if isinstance(visited, list) else [visited]

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        quiet = not isinstance(node.ctx, ast.Load) and (node.lineno, node.col_offset) in self._quiet
        if quiet or node.attr not in self._attributes:
            return self.generic_visit(node)
        site = self._site(node, node)
        node.value = self.visit(node.value)
        hook = READ if isinstance(node.ctx, ast.Load) else WRITE
        node.value = self._call(hook, [node.value, ast.Constant(node.attr), site], node.value)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if not isinstance(node.ctx, ast.Load):
            return node
        owner = self._owner(node.id)
        if owner is None:
            return node
        return self._call(VARIABLE, [owner, ast.Constant(node.id), self._site(node, node), node], node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if not _may_be_container(node.value):
            return self.generic_visit(node)
        site = self._site(node, node.value)
        simple = isinstance(node.slice, (ast.Name, ast.Constant)) and self._is_plain(node.slice)
        key = ast.parse(ast.unparse(node.slice), mode="eval").body if simple else None
        node.value = self.visit(node.value)
        node.slice = self.visit(node.slice)
        if isinstance(node.ctx, ast.Del):
            node.value = self._call(CHANGE, [node.value, site], node.value)
        elif key is None:
            changed = isinstance(node.ctx, ast.Store)
            node.value = self._call(CHANGE if changed else USE, [node.value, site], node.value)
        else:
            ast.copy_location(key, node.slice)
            hook = SET_ITEM if isinstance(node.ctx, ast.Store) else ITEM
            node.value = self._call(hook, [node.value, key, site], node.value)
        return node

    def _is_plain(self, node: ast.expr) -> bool:
        return not isinstance(node, ast.Name) or self._owner(node.id) is None

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST | list[ast.stmt]:
        target = node.target
        if isinstance(target, ast.Attribute) and target.attr in self._attributes:
            # A constructor that adds to its own field is too rare to be worth an exception here.
            site = self._site(target, target)
            target.value = self.visit(target.value)
            target.value = self._call(UPDATE, [target.value, ast.Constant(target.attr), site], target.value)
        else:
            node.target = self.visit(target)
        node.value = self.visit(node.value)
        return self._with_writes(node, [target])

    def visit_Assign(self, node: ast.Assign) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return self._with_writes(node, node.targets)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | list[ast.stmt]:
        node.target = self.visit(node.target)
        if node.value is not None:
            node.value = self.visit(node.value)
        return self._with_writes(node, [node.target] if node.value is not None else [])

    def _with_writes(self, node: ast.stmt, targets: Sequence[ast.expr]) -> ast.AST | list[ast.stmt]:
        """``node``, followed by calls that report which shared variables it has assigned."""
        after: list[ast.stmt] = [node]
        for target in targets:
            for name in ast.walk(target):
                if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                    owner = self._owner(name.id)
                    if owner is not None:
                        site = self._site(name, name)
                        call = self._call(WROTE, [owner, ast.Constant(name.id), site], node)
                        after.append(ast.copy_location(ast.Expr(call), node))
        return after if len(after) > 1 else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        function = node.func
        if isinstance(function, ast.Attribute) and not _is_super(function.value):
            hook = self._hook_of_method(function.attr)
            if function.attr == "get" and node.args and self._is_simple_key(node.args[0]):
                site = self._site(function, function.value)
                key = ast.parse(ast.unparse(node.args[0]), mode="eval").body
                ast.copy_location(key, node.args[0])
                function.value = self._call(ITEM, [self.visit(function.value), key, site], function.value)
            elif hook and _may_be_container(function.value):
                site = self._site(function, function.value)
                function.value = self._call(hook, [self.visit(function.value), site], function.value)
            else:
                node.func = self.visit(function)
        else:
            node.func = self.visit(function)
        name = function.id if isinstance(function, ast.Name) else ""
        if isinstance(function, ast.Attribute):
            name = function.attr
        if name in _READERS or name == "join":
            node.args = [self._read_argument(argument) for argument in node.args]
        else:
            node.args = [self.visit(argument) for argument in node.args]
        node.keywords = [self.visit(keyword) for keyword in node.keywords]
        return node

    def _read_argument(self, node: ast.expr) -> ast.expr:
        if isinstance(node, (ast.Tuple, ast.List)):
            node.elts = [self._read_argument(element) for element in node.elts]
            return node
        if isinstance(node, ast.Dict):
            node.keys = [None if key is None else self.visit(key) for key in node.keys]
            node.values = [self._read_argument(value) for value in node.values]
            return node
        return self._used(node)

    def _is_simple_key(self, node: ast.expr) -> bool:
        return isinstance(node, (ast.Name, ast.Constant)) and self._is_plain(node)

    @staticmethod
    def _hook_of_method(name: str) -> str:
        if name in _PUTS:
            return QUEUED
        if name in _TAKES:
            return TAKEN
        return CHANGE if name in _CHANGES else USE if name in _USES else ""

    def visit_match_case(self, node: ast.match_case) -> ast.AST:
        # A pattern cannot contain calls.
        node.guard = None if node.guard is None else self.visit(node.guard)
        node.body = [new for statement in node.body for new in self._statement(statement)]
        return node

    def visit_For(self, node: ast.For) -> ast.AST:
        node.iter = self._used(node.iter)
        node.target = self.visit(node.target)
        node.body = [new for statement in node.body for new in self._statement(statement)]
        node.orelse = [new for statement in node.orelse for new in self._statement(statement)]
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        node.iter = self._used(node.iter)
        node.target = self.visit(node.target)
        node.ifs = [self.visit(test) for test in node.ifs]
        return node

    def visit_Starred(self, node: ast.Starred) -> ast.AST:
        if isinstance(node.ctx, ast.Load):
            node.value = self._used(node.value)
            return node
        return self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        node.left = self.visit(node.left)
        node.comparators = [
            self._used(right) if isinstance(operator, (ast.In, ast.NotIn)) else self.visit(right)
            for operator, right in zip(node.ops, node.comparators, strict=True)
        ]
        return node


def _is_super(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _may_be_container(node: ast.expr) -> bool:
    """Whether an expression may be a container that other threads know."""
    return isinstance(node, (ast.Attribute, ast.Name, ast.Subscript))


def _own_nodes(function: _Function) -> Iterator[ast.AST]:
    """The nodes of a function, without the nodes of functions inside it."""
    waiting: list[ast.AST] = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            waiting.extend(ast.iter_child_nodes(node))


def _bound(function: _Function) -> set[str]:
    """The names that a function binds."""
    arguments = function.args
    names = {each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    names |= {each.arg for each in (arguments.vararg, arguments.kwarg) if each is not None}
    for node in _own_nodes(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
    return names
