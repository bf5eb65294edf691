"""Users: who there is, and the admin that there must always be."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.users import (
    LastAdminError,
    UserExistsError,
    UserNameError,
    Users,
    UserUnknownError,
    WeakPasswordError,
)
from avinet.rest.access import Role, lesser
from avinet.trust.node import Admin
from tests.unit.operators_kit import ADMIN, PASSWORD, Site

GOOD = "long enough 1"


class UsersTests(SynchronousTestCase):
    def setUp(self):
        self.site = Site(self)
        self.users = self.site.users

    def again(self):
        """The users as another controller on the same store reads them."""
        users = Users(self.site.store, self.site.clock, self.site.thread)
        self.site.done(users.load())
        self.site.done(users.lead(Admin(user="other", salt="00", hash="00")))
        return users

    def test_the_first_admin_is_taken_over_once_and_then_the_store_counts(self):
        self.assertEqual([(u.name, u.role) for u in self.users.all()], [("admin", Role.ADMIN)])
        self.site.done(self.users.create("anna", Role.ADMIN, GOOD))
        self.site.done(self.users.delete("admin"))
        self.assertEqual([u.name for u in self.again().all()], ["anna"])

    def test_the_taken_over_admin_keeps_the_password_and_its_cost(self):
        self.assertEqual(self.site.done(self.again().verified("admin", PASSWORD)).name, "admin")
        self.assertEqual(self.users.get("admin").n, ADMIN.n)

    def test_the_last_admin_who_can_log_in_stays(self):
        self.site.done(self.users.create("anna", Role.ADMIN, GOOD))
        self.site.done(self.users.create("olga", Role.OPERATOR, GOOD))
        self.site.done(self.users.set_disabled("anna", disabled=True))
        for work in (
            self.users.delete("admin"),
            self.users.set_role("admin", Role.OPERATOR),
            self.users.set_disabled("admin", disabled=True),
        ):
            self.site.failed(work, LastAdminError)
        self.site.done(self.users.set_disabled("anna", disabled=False))
        self.site.done(self.users.set_role("admin", Role.READ_ONLY))
        self.site.failed(self.users.delete("anna"), LastAdminError)

    def test_two_controllers_cannot_take_the_last_two_admins_at_once(self):
        self.site.done(self.users.create("anna", Role.ADMIN, GOOD))
        other = self.again()
        self.site.done(self.users.delete("admin"))
        self.site.failed(other.delete("anna"), LastAdminError)
        self.assertEqual([u.name for u in self.again().all()], ["anna"])

    def test_a_change_that_others_overtook_is_made_on_theirs(self):
        self.site.done(self.users.create("olga", Role.OPERATOR, GOOD))
        other = self.again()
        self.site.done(self.users.set_role("olga", Role.READ_ONLY))
        self.site.done(other.set_disabled("olga", disabled=True))
        olga = self.again().get("olga")
        self.assertEqual((olga.role, olga.disabled), (Role.READ_ONLY, True))

    def test_names_and_passwords_that_cannot_be_are_refused(self):
        for name in ("", "local", "unknown", "a b", ".a", "a" * 64, "a\n", "é", "a/b"):
            self.site.failed(self.users.create(name, Role.OPERATOR, GOOD), UserNameError)
        for password in (
            "",
            "short",
            "aaaaaaaaaaaaaaa",
            "long enough\n1",
            "olga12345678",
            "x" * 600 + "yzé" * 300,
        ):
            self.site.failed(self.users.create("olga", Role.OPERATOR, password), WeakPasswordError)
        self.site.failed(self.users.create("admin", Role.OPERATOR, GOOD), UserExistsError)
        self.assertEqual(len(self.users.all()), 1)

    def test_what_is_done_to_nobody_is_told(self):
        for work in (
            self.users.delete("nobody"),
            self.users.set_password("nobody", GOOD),
            self.users.set_role("nobody", Role.ADMIN),
        ):
            self.site.failed(work, UserUnknownError)

    def test_listeners_hear_whose_rights_changed_and_only_then(self):
        heard = []
        self.users.listen(heard.append)
        self.site.done(self.users.create("olga", Role.OPERATOR, GOOD))
        self.site.done(self.users.set_role("olga", Role.OPERATOR))
        self.site.done(self.users.set_password("olga", GOOD + "2"))
        self.site.done(self.users.delete("olga"))
        self.assertEqual(heard, ["olga"] * 3)

    def test_the_store_has_no_password(self):
        self.site.done(self.users.create("olga", Role.OPERATOR, GOOD))
        for entry in self.successResultOf(self.site.store.list("user/")).entries:
            self.assertNotIn(GOOD.encode(), entry.value)


class RoleTests(SynchronousTestCase):
    def test_each_role_covers_those_before_it(self):
        order = [Role.READ_ONLY, Role.OPERATOR, Role.ADMIN]
        for i, one in enumerate(order):
            for j, other in enumerate(order):
                self.assertEqual(one.covers(other), i >= j)
                self.assertEqual(lesser(one, other), order[min(i, j)])
