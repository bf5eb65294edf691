"""The two roles as twistd plugins: ``twistd avicontroller`` and ``twistd avise``."""

from twisted.application.service import ServiceMaker

avicontroller = ServiceMaker(
    "avinet controller",
    "avinet.app.controller_tap",
    "avinet controller: owns the configuration and the channels of a load-balancer fleet",
    "avicontroller",
)

avise = ServiceMaker(
    "avinet service engine",
    "avinet.app.se_tap",
    "avinet service engine: enrols once, then serves the traffic that its controllers configure",
    "avise",
)
