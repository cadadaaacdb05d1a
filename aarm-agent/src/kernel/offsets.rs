//! The member offsets the kernel programs need, and what else they rely on in the layout.

use super::btf::{Btf, BtfError};

/// `(global of the object, structure, member)`.
const OFFSETS: &[(&str, &str, &str)] = &[
    ("OFF_FILE_F_PATH", "file", "f_path"),
    ("OFF_FILE_F_MODE", "file", "f_mode"),
    ("OFF_FILE_F_FLAGS", "file", "f_flags"),
    ("OFF_FILE_F_INODE", "file", "f_inode"),
    ("OFF_PATH_MNT", "path", "mnt"),
    ("OFF_PATH_DENTRY", "path", "dentry"),
    ("OFF_DENTRY_D_PARENT", "dentry", "d_parent"),
    ("OFF_DENTRY_D_INODE", "dentry", "d_inode"),
    ("OFF_INODE_I_INO", "inode", "i_ino"),
    ("OFF_INODE_I_MODE", "inode", "i_mode"),
    ("OFF_INODE_I_SB", "inode", "i_sb"),
    ("OFF_SUPER_BLOCK_S_DEV", "super_block", "s_dev"),
    ("OFF_VFSMOUNT_MNT_ROOT", "vfsmount", "mnt_root"),
    ("OFF_MOUNT_MNT", "mount", "mnt"),
    ("OFF_MOUNT_MNT_PARENT", "mount", "mnt_parent"),
    ("OFF_MOUNT_MNT_MOUNTPOINT", "mount", "mnt_mountpoint"),
    ("OFF_LINUX_BINPRM_FILE", "linux_binprm", "file"),
    ("OFF_TASK_STRUCT_PID", "task_struct", "pid"),
    ("OFF_TASK_STRUCT_TGID", "task_struct", "tgid"),
    ("OFF_TASK_STRUCT_REAL_PARENT", "task_struct", "real_parent"),
    ("OFF_TASK_STRUCT_MM", "task_struct", "mm"),
    ("OFF_TASK_STRUCT_FS", "task_struct", "fs"),
    ("OFF_TASK_STRUCT_SIGNAL", "task_struct", "signal"),
    ("OFF_TASK_STRUCT_EXIT_CODE", "task_struct", "exit_code"),
    ("OFF_SIGNAL_STRUCT_LIVE", "signal_struct", "live"),
    ("OFF_MM_STRUCT_EXE_FILE", "mm_struct", "exe_file"),
    ("OFF_MM_STRUCT_ARG_START", "mm_struct", "arg_start"),
    ("OFF_MM_STRUCT_ARG_END", "mm_struct", "arg_end"),
    ("OFF_FS_STRUCT_PWD", "fs_struct", "pwd"),
    ("OFF_SOCKET_SK", "socket", "sk"),
    ("OFF_SOCKET_TYPE", "socket", "type"),
    ("OFF_SOCK_SK_PROTOCOL", "sock", "sk_protocol"),
    ("OFF_SOCK_SKC_FAMILY", "sock_common", "skc_family"),
    ("OFF_SOCK_SKC_NUM", "sock_common", "skc_num"),
    ("OFF_SOCK_SKC_RCV_SADDR", "sock_common", "skc_rcv_saddr"),
    ("OFF_SOCK_SKC_V6_RCV_SADDR", "sock_common", "skc_v6_rcv_saddr"),
    ("OFF_MSGHDR_MSG_NAME", "msghdr", "msg_name"),
    ("OFF_MSGHDR_MSG_NAMELEN", "msghdr", "msg_namelen"),
    ("OFF_UNIX_SOCK_ADDR", "unix_sock", "addr"),
    ("OFF_UNIX_SOCK_PATH", "unix_sock", "path"),
    ("OFF_UNIX_ADDRESS_LEN", "unix_address", "len"),
    ("OFF_UNIX_ADDRESS_NAME", "unix_address", "name"),
];

/// The offsets of the running kernel, by the object's global.
pub fn resolve(btf: &Btf) -> Result<Vec<(&'static str, u32)>, BtfError> {
    check_layout(btf)?;
    OFFSETS.iter().map(|(global, structure, member)| Ok((*global, btf.offset(structure, member)?))).collect()
}

/// What the programs read in one piece, and so must lie as they expect.
fn check_layout(btf: &Btf) -> Result<(), BtfError> {
    let parent = btf.offset("dentry", "d_parent")?;
    let name = btf.offset("dentry", "d_name").or_else(|_| btf.offset("dentry", "__d_name"))?;
    if name != parent + 8 {
        return Err(BtfError::Layout("struct dentry: d_parent, d_name"));
    }
    if btf.offset("qstr", "len")? != 4 || btf.offset("qstr", "name")? != 8 {
        return Err(BtfError::Layout("struct qstr"));
    }
    if btf.offset("path", "mnt")? != 0 || btf.offset("path", "dentry")? != 8 {
        return Err(BtfError::Layout("struct path"));
    }
    if btf.offset("sock", "__sk_common")? != 0 || btf.offset("unix_sock", "sk")? != 0 {
        return Err(BtfError::Layout("struct sock"));
    }
    Ok(())
}
