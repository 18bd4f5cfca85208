-- What is looked at again and again must not be searched for among all that ever was.
DROP INDEX inbox_age;
CREATE INDEX inbox_done ON inbox (created_at) WHERE state = 'done';
DROP INDEX outbox_state;
CREATE INDEX outbox_open ON outbox (added_at) WHERE state = 'open';
CREATE INDEX outbox_closed ON outbox (closed_at) WHERE closed_at IS NOT NULL;
