-- What kind of trouble `reason` tells of, for programs.
ALTER TABLE orders ADD COLUMN code TEXT NOT NULL DEFAULT '';
