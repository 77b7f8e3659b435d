"""Mail: any mailbox with IMAP and SMTP."""

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.mail.connector import MailConnector
from gateway.model.im import Connector


def build(settings: ConnectorSettings) -> Connector:
    return MailConnector(settings)
